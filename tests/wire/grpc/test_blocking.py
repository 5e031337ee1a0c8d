"""The commands' blocking client: against grpcio's server and ours, and against a scripted server byte by byte."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)
from portside.wire.grpc import plain_hpack
from portside.wire.grpc.blocking import BlockingChannel
from portside.wire.http2 import hpack
from portside.wire.http2.frames import FRAME_HEADER, PREFACE, goaway, settings, window_update
from portside.wire.status import error_of
from tests.wire.grpc.answers import ANSWERS, FAILURES, GOOD, HEAD, data, headers, serve
from tests.wire.grpc.servers import SERVERS, SERVICE, Probe

SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def ask(**asked: Any) -> bytes:
    return json.dumps(asked).encode()


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture(params=list(SERVERS))
def address(request: pytest.FixtureRequest, tmp_path: Path, probe: Probe) -> Iterator[str]:
    """A server on a loop in a thread of its own, since this client blocks."""
    up, down = threading.Event(), threading.Event()

    async def serve() -> None:
        async with SERVERS[request.param](str(tmp_path / "s"), probe):
            up.set()
            await asyncio.to_thread(down.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert up.wait(20)
    yield str(tmp_path / "s")
    down.set()
    thread.join()


@pytest.fixture
def channel(address: str) -> Iterator[BlockingChannel]:
    channel = BlockingChannel(address)
    yield channel
    channel.close()
    channel.close()


def test_calls_one_after_the_other(channel: BlockingChannel) -> None:
    for number in range(50):
        assert channel.unary(SERVICE + "Unary", b"%d" % number, timeout=20) == b"%d" % number
    assert (
        channel.unary(SERVICE + "Unary", b"without a deadline", metadata=[("x-key", "value")]) == b"without a deadline"
    )


@pytest.mark.parametrize("size", [16383, 16384, 65530, 65535, 1 << 20, (16 << 20) - 1])
def test_messages_of_all_sizes(channel: BlockingChannel, size: int) -> None:
    data = os.urandom(size)
    assert channel.unary(SERVICE + "Unary", data, timeout=60) == data
    assert channel.unary(SERVICE + "Unary", data, timeout=60) == data


@pytest.mark.parametrize("code", range(1, 17))
def test_errors(channel: BlockingChannel, code: int) -> None:
    with pytest.raises(type(error_of(code, "")), match="test status message"):
        channel.unary(SERVICE + "Unary", ask(status=[code, "test status message"]), timeout=20)
    with pytest.raises(type(error_of(code, "")), match="in a stream"):
        list(channel.server_stream(SERVICE + "ServerStream", ask(sizes=[1], status=[code, "in a stream"]), timeout=20))


def test_a_special_status_message(channel: BlockingChannel) -> None:
    with pytest.raises(Unknown) as caught:
        channel.unary(SERVICE + "Unary", ask(status=[2, SPECIAL]), timeout=20)
    assert str(caught.value) == SPECIAL


def test_unimplemented(channel: BlockingChannel) -> None:
    with pytest.raises(Unimplemented):
        channel.unary("/no.such.Service/Unary", b"", timeout=20)


def test_a_stream(channel: BlockingChannel) -> None:
    sizes = [0, 5, 100_000, 3 << 20, 1] * 3
    answers = channel.server_stream(SERVICE + "ServerStream", ask(sizes=sizes), timeout=60)
    assert [len(answer) for answer in answers] == sizes


def test_a_stream_that_is_polled(channel: BlockingChannel) -> None:
    sizes = [5, 300_000, 5]
    stream = channel.server_stream(SERVICE + "ServerStream", ask(sizes=sizes))
    assert channel.unary(SERVICE + "Unary", b"meanwhile", timeout=20) == b"meanwhile"
    poll = select.epoll()
    poll.register(stream.fileno(), select.EPOLLIN)
    found: list[int] = []
    while poll.poll(20):
        messages = stream.receive()
        if messages is None:
            break
        found += map(len, messages)
    assert found == sizes
    assert poll.poll(0) and stream.receive() is None  # and so it stays
    poll.close()


def test_a_polled_stream_that_fails(channel: BlockingChannel) -> None:
    stream = channel.server_stream(SERVICE + "ServerStream", ask(sizes=[7], status=[5, "not here"]))
    found: list[bytes] = []
    with pytest.raises(NotFound, match="not here"):
        while select.select([stream.fileno()], [], [], 20)[0]:
            found += stream.receive() or []
    assert list(map(len, found)) == [7]


def test_a_stream_that_is_closed_early(channel: BlockingChannel, probe: Probe) -> None:
    stream = channel.server_stream(SERVICE + "ServerStream", ask(sizes=[1], wait=True))
    assert next(iter(stream)) == b"\0"
    assert probe.entered.wait(20)
    stream.close()
    assert stream.fileno() == -1
    assert probe.cancelled.wait(20)


def test_deadlines(channel: BlockingChannel, probe: Probe) -> None:
    with pytest.raises(DeadlineExceeded):
        channel.unary(SERVICE + "Unary", ask(wait=True), timeout=0.1)
    assert probe.cancelled.wait(20)
    assert channel.unary(SERVICE + "Unary", b"goes on", timeout=20) == b"goes on"
    with pytest.raises(DeadlineExceeded):
        channel.unary(SERVICE + "Unary", b"", timeout=0)
    probe.cancelled.clear()
    with pytest.raises(DeadlineExceeded):
        list(channel.server_stream(SERVICE + "ServerStream", ask(wait=True), timeout=0.1))


def test_a_message_beyond_the_limit(channel: BlockingChannel) -> None:
    with pytest.raises(ResourceExhausted):
        channel.unary(SERVICE + "Unary", ask(sizes=[(16 << 20) + 1]), timeout=60)
    assert channel.unary(SERVICE + "Unary", b"goes on", timeout=20) == b"goes on"


def test_nobody_serves(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nobody serves"):
        BlockingChannel(str(tmp_path / "none")).unary(SERVICE + "Unary", b"")
    with pytest.raises(Unavailable, match="nobody serves"):
        BlockingChannel(f"unix://{tmp_path}/none").server_stream(SERVICE + "Unary", b"")


def test_metadata_that_cannot_be_sent(channel: BlockingChannel) -> None:
    for pair in (("UPPER", "x"), ("text", "line\nbreak"), ("bin-bin", "x"), ("ä", "x"), ("long", "x" * 20000)):
        with pytest.raises(InvalidArgument):
            channel.unary(SERVICE + "Unary", b"", metadata=[pair])
    assert channel.unary(SERVICE + "Unary", b"goes on", metadata=[("long", "x" * 500)], timeout=20) == b"goes on"


# A scripted server


def one(path: Path, answer: bytes) -> bytes:
    """A call whose answer is ``answer``."""
    join = serve(path / "s", [answer])
    channel = BlockingChannel(str(path / "s"))
    try:
        return channel.unary("/t.S/M", b"q", timeout=20)
    finally:
        channel.close()
        join()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(tmp_path: Path, name: str) -> None:
    assert one(tmp_path, ANSWERS[name]) == b"yes"


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure(tmp_path: Path, name: str) -> None:
    answer, kind, text = FAILURES[name]
    with pytest.raises(kind, match=text):
        one(tmp_path, answer)


def test_a_server_that_goes_between_two_calls(tmp_path: Path) -> None:
    """The idle connection is dropped, and a call that was not begun is sent again."""
    good = headers(HEAD) + data(b"yes") + headers(GOOD, end=True)
    second = headers(HEAD, stream=3) + data(b"two", stream=3) + headers(GOOD, end=True, stream=3)
    join = serve(tmp_path / "s", [good + goaway(1, 0)], [good, goaway(1, 0)], [good, second])
    channel = BlockingChannel(str(tmp_path / "s"))
    assert [channel.unary("/t.S/M", b"q", timeout=20) for _ in range(4)] == [b"yes", b"yes", b"yes", b"two"]
    channel.close()
    first, *_ = join()
    assert first.startswith(PREFACE)


def test_windows_that_are_shut(tmp_path: Path) -> None:
    """A request beyond the windows waits for credit; 100 bytes of it go at a time."""
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    got = bytearray()

    def run() -> None:
        connection, _ = listener.accept()
        connection.sendall(settings({4: 65535}))
        content = 0
        buffer = b""
        connection.settimeout(20)
        while content < 70_005:
            buffer += connection.recv(65536)
            if buffer.startswith(PREFACE):
                buffer = buffer[len(PREFACE) :]
            while len(buffer) >= 9 and len(buffer) >= 9 + (FRAME_HEADER.unpack_from(buffer)[0] >> 8):
                word, _, _ = FRAME_HEADER.unpack_from(buffer)
                if word & 255 == 0:
                    content += word >> 8
                    got.extend(buffer[9 : 9 + (word >> 8)])
                buffer = buffer[9 + (word >> 8) :]
                if content >= 65535:
                    connection.sendall(window_update(0, 100) + window_update(1, 100))
        connection.sendall(headers(HEAD) + data(b"yes") + headers(GOOD, end=True))
        connection.recv(1)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    channel = BlockingChannel(str(path))
    body = os.urandom(70_000)
    assert channel.unary("/t.S/M", body, timeout=20) == b"yes"
    assert bytes(got[5:]) == body
    channel.close()
    thread.join(20)
    listener.close()


def test_a_head_that_the_oracle_reads() -> None:
    from hpack import Decoder

    block = plain_hpack.request_head("/t.S/Method", (("containerd-namespace", "x" * 200),), None)
    assert Decoder().decode(block) == [
        (":method", "POST"), (":scheme", "http"), (":path", "/t.S/Method"), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-accept-encoding", "identity,gzip"),
        ("user-agent", "portside"), ("containerd-namespace", "x" * 200),
    ]  # fmt: skip


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"grpc-status", b"content-type", b":status", b"x", b"server", b"a" * 200]),
        st.sampled_from([b"", b"0", b"200", b"application/grpc"]) | st.binary(max_size=150),
    )
)


@given(FIELDS | st.binary(max_size=40))
def test_what_is_read_without_the_decoder_is_what_it_reads(block: list[tuple[bytes, bytes]] | bytes) -> None:
    raw = block if isinstance(block, bytes) else hpack.encode(block)
    quick = plain_hpack.plain_fields(raw)
    if quick is not None:
        assert tuple(quick) == hpack.Decoder().decode(raw).fields


def test_what_our_server_sends_is_read_without_the_decoder() -> None:
    for block in (HEAD, GOOD, b"\x20" + HEAD):
        assert plain_hpack.plain_fields(block) is not None


def test_light() -> None:
    """Its import brings in nothing that takes long."""
    code = "before = set(sys.modules); import portside.wire.grpc.blocking; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    foreign = {name for name in loaded.stdout.split() if not name.startswith("portside")}
    assert foreign <= {"_socket", "_struct", "struct", "errno", "__future__"}
    assert not any("http2" in name for name in loaded.stdout.split())
