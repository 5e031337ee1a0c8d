"""The server and any sequence of frames: no defect is logged, nothing is left behind, another client is served on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from portside.wire.grpc.limits import ServerLimits
from portside.wire.grpc.protocol import PREFIX, frame
from portside.wire.grpc.server import GrpcServer
from portside.wire.http2.hpack import encode
from tests.wire.grpc.raw import RawClient, request
from tests.wire.grpc.test_server import Service
from tests.wire.http2 import scripts

PATHS = [
    "echo",
    "echo_inline",
    "waits_inline",
    "fails",
    "collect",
    "takes_one",
    "chat",
    "fails_late",
    "nothing",
    "sleeps",
]
STREAMS = st.sampled_from([1, 1, 3, 3, 5, 7])
BODIES = st.sampled_from(
    [b"", frame(b"x"), frame(b"x") * 2, frame(b"x")[:3], PREFIX.pack(0, 1 << 25), b"\1\0\0\0\1x", b"\7"]
)

frames = st.lists(
    st.one_of(
        st.builds(
            lambda stream, path, end, extra: scripts.headers(stream, encode(request(f"/t.S/{path}", *extra)), end),
            STREAMS,
            st.sampled_from(PATHS),
            st.booleans(),
            st.sampled_from(
                [(), (), ((b"grpc-timeout", b"1m"),), ((b"grpc-timeout", b"x"),), ((b"content-type", b"x"),)]
            ),
        ),
        st.builds(scripts.data, STREAMS, BODIES, st.booleans()),
        st.builds(scripts.rst, STREAMS),
        st.builds(scripts.headers, STREAMS, st.just(scripts.TRAILERS), st.just(True)),
        st.builds(scripts.window, st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 1000])),
        st.builds(lambda size: scripts.settings((4, size)), st.sampled_from([0, 10, 100_000])),
        st.just(scripts.frame(scripts.PING, 0, 0, bytes(8))),
        st.just(scripts.goaway(0)),
    ),
    max_size=12,
)


class Records(logging.Handler):
    """Errors that the server has logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


async def serve(raw: bytes, cut: int, unhandled: list[str]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(str(context)))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s"
        server = GrpcServer(Service().methods(), ServerLimits(linger=0.01))
        await server.listen_unix(path)
        _, writer = await asyncio.open_unix_connection(path)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(raw), cut):
                writer.write(raw[start : start + cut])
                await asyncio.sleep(0)
            await writer.drain()
        async with await RawClient.connect(path) as client:
            assert (await client.call("/t.S/echo", b"still")).messages == [(0, b"still")]
        writer.close()
        await server.drain(0)
        assert server.statistics() == {"connections": 0, "tasks": 0, "listeners": 0}


@given(frames, st.sampled_from([7, 50, 100_000]))
@settings(max_examples=150, deadline=None)
def test_any_frames(soup: list[bytes], cut: int) -> None:
    records = Records()
    logger = logging.getLogger("portside.grpc")
    logger.addHandler(records)
    try:
        asyncio.run(serve(scripts.PREFACE + scripts.settings() + b"".join(soup), cut, records.messages))
    finally:
        logger.removeHandler(records)
    assert records.messages == []
