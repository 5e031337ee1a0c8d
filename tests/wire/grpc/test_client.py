"""The asyncio client against grpcio's server and ours: gRPC's published interop cases, and what goes wrong in life."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from portside.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PortsideError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)
from portside.wire.grpc.client import Channel
from portside.wire.grpc.server import GrpcServer
from portside.wire.status import error_of
from tests.wire.grpc.answers import ANSWERS, FAILURES, serve
from tests.wire.grpc.servers import SERVERS, SERVICE, Probe, our_methods

SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture(params=list(SERVERS))
async def address(request: pytest.FixtureRequest, tmp_path: Path, probe: Probe) -> AsyncIterator[str]:
    async with SERVERS[request.param](str(tmp_path / "s"), probe):
        yield str(tmp_path / "s")


@pytest.fixture
async def channel(address: str) -> AsyncIterator[Channel]:
    channel = Channel(address)
    yield channel
    await channel.close()
    await channel.close()


def ask(**asked: Any) -> bytes:
    return json.dumps(asked).encode()


# gRPC's interop cases, by their names


async def test_empty_unary(channel: Channel) -> None:
    assert await channel.unary(SERVICE + "Unary", b"", None, timeout=20) == b""


async def test_large_unary(channel: Channel) -> None:
    request = ask(sizes=[314159]).ljust(271828)
    assert len(await channel.unary(SERVICE + "Unary", request, None, timeout=20)) == 314159


@pytest.mark.parametrize("method", ["Unary", "ServerStream"])
async def test_server_compressed(tmp_path: Path, probe: Probe, method: str) -> None:
    async with SERVERS["grpcio"](str(tmp_path / "s"), probe):
        channel = Channel(str(tmp_path / "s"))
        request = ask(sizes=[314159], compress=True)
        answers = [answer async for answer in channel.server_stream(SERVICE + method, request, None, timeout=20)]
        assert answers == [bytes(314159)]
        await channel.close()


async def test_client_streaming(channel: Channel) -> None:
    async with channel.stream(SERVICE + "ClientStream", None, timeout=20) as call:
        for size in (27182, 8, 1828, 45904):
            await call.send(bytes(size))
        await call.done_writing()
        assert await call.recv() == b"74922"
        assert await call.recv() is None


async def test_server_streaming(channel: Channel) -> None:
    sizes = [31415, 9, 2653, 58979, 0]
    answers = channel.server_stream(SERVICE + "ServerStream", ask(sizes=sizes), None, timeout=20)
    assert [len(answer) async for answer in answers] == sizes


async def test_ping_pong(channel: Channel) -> None:
    async with channel.stream(SERVICE + "Bidi", None, timeout=20) as call:
        for asked, size in ((27182, 31415), (8, 9), (1828, 2653), (45904, 58979)):
            await call.send(ask(sizes=[size]).ljust(asked))
            answer = await call.recv()
            assert answer is not None and len(answer) == size
        await call.done_writing()
        assert await call.recv() is None


async def test_empty_stream(channel: Channel) -> None:
    async with channel.stream(SERVICE + "Bidi", None, timeout=20) as call:
        await call.done_writing()
        await call.done_writing()
        assert await call.recv() is None


async def test_cancel_after_begin(channel: Channel, probe: Probe) -> None:
    call = channel.stream(SERVICE + "ClientStream", None)
    await call.send(b"begun")
    call.cancel()
    with pytest.raises(Cancelled):
        await call.recv()


async def test_cancel_after_first_response(channel: Channel, probe: Probe) -> None:
    call = channel.stream(SERVICE + "Bidi", None)
    await call.send(b"one")
    assert await call.recv() == b"one"
    await call.send(ask(wait=True))
    await probe.wait(probe.entered)
    call.cancel()
    with pytest.raises(Cancelled):
        await call.recv()
    await probe.wait(probe.cancelled)


async def test_timeout_on_sleeping_server(channel: Channel, probe: Probe) -> None:
    call = channel.stream(SERVICE + "Bidi", None, timeout=0.2)
    await call.send(ask(wait=True))
    with pytest.raises(DeadlineExceeded):
        await call.recv()
    await probe.wait(probe.cancelled)
    with pytest.raises(DeadlineExceeded):
        await call.send(b"too late")


async def test_custom_metadata(tmp_path: Path, probe: Probe) -> None:
    metadata = [("x-echo-initial", "test_initial_metadata_value"), ("x-echo-trailing-bin", b"\xab\x00\xff")]
    async with SERVERS["grpcio"](str(tmp_path / "s"), probe):
        channel = Channel(str(tmp_path / "s"))
        async with channel.stream(SERVICE + "Unary", None, metadata=metadata, timeout=20) as call:
            await call.send(b"x")
            await call.done_writing()
            assert [answer async for answer in call] == [b"x"]
            assert ("x-echo-initial", "test_initial_metadata_value") in call.headers
            assert ("x-echo-trailing-bin", b"\xab\x00\xff") in call.trailers
        await channel.close()


async def test_trailing_metadata(channel: Channel) -> None:
    metadata = [("x-echo-trailing-bin", b"\xab\x00\xff")]
    async with channel.stream(SERVICE + "Unary", None, metadata=metadata, timeout=20) as call:
        await call.send(ask(status=[5, "gone"]))
        await call.done_writing()
        with pytest.raises(PortsideError, match="gone"):
            await call.recv()
        assert metadata[0] in call.trailers


@pytest.mark.parametrize("code", range(1, 17))
async def test_status_code_and_message(channel: Channel, code: int) -> None:
    with pytest.raises(type(error_of(code, "")), match="test status message"):
        await channel.unary(SERVICE + "Unary", ask(status=[code, "test status message"]), None, timeout=20)
    with pytest.raises(type(error_of(code, "")), match="in a stream"):
        request = ask(sizes=[1], status=[code, "in a stream"])
        _ = [answer async for answer in channel.server_stream(SERVICE + "ServerStream", request, None, timeout=20)]


async def test_special_status_message(channel: Channel) -> None:
    with pytest.raises(Unknown) as caught:
        await channel.unary(SERVICE + "Unary", ask(status=[2, SPECIAL]), None, timeout=20)
    assert str(caught.value) == SPECIAL


@pytest.mark.parametrize("path", [SERVICE + "Nope", "/no.such.Service/Unary"])
async def test_unimplemented(channel: Channel, path: str) -> None:
    with pytest.raises(Unimplemented):
        await channel.unary(path, b"", None, timeout=20)
    with pytest.raises(Unimplemented):
        _ = [answer async for answer in channel.server_stream(path, b"", None, timeout=20)]


# Beyond them


async def test_many_calls_on_one_connection(channel: Channel) -> None:
    calls = [channel.unary(SERVICE + "Unary", b"%d" % number, None, timeout=60) for number in range(300)]
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(300)]


async def test_messages_up_to_the_limit_and_beyond(channel: Channel) -> None:
    size = (16 << 20) - 1
    assert len(await channel.unary(SERVICE + "Unary", bytes(size), None, timeout=60)) == size
    with pytest.raises(ResourceExhausted):
        await channel.unary(SERVICE + "Unary", ask(sizes=[(16 << 20) + 1]), None, timeout=60)
    with pytest.raises(ResourceExhausted):
        await channel.unary(SERVICE + "Unary", bytes((16 << 20) + 1), None, timeout=60)
    assert await channel.unary(SERVICE + "Unary", b"still fine", None, timeout=20) == b"still fine"


async def test_a_slow_reader_slows_the_server(channel: Channel, probe: Probe) -> None:
    answers = channel.server_stream(SERVICE + "ServerStream", ask(sizes=[1 << 20] * 64), None, timeout=60)
    assert len(await anext(answers)) == 1 << 20
    for _ in range(20):  # other calls go on meanwhile
        await channel.unary(SERVICE + "Unary", b"", None, timeout=20)
    assert probe.sent < 40
    count = 1
    async for answer in answers:
        assert len(answer) == 1 << 20
        count += 1
    assert count == 64


async def test_an_upload_larger_than_all_windows(channel: Channel) -> None:
    async with channel.stream(SERVICE + "ClientStream", None, timeout=60) as call:
        for _ in range(48):
            await call.send_buffers((b"head", memoryview(bytes(1 << 20))))
        await call.done_writing()
        assert await call.recv() == b"%d" % (48 * ((1 << 20) + 4))


async def test_sending_and_receiving_at_the_same_time(channel: Channel) -> None:
    async with channel.stream(SERVICE + "Bidi", None, timeout=60) as call:

        async def send() -> None:
            for number in range(200):
                await call.send(b"%d" % number)
            await call.done_writing()

        sending = asyncio.ensure_future(send())
        assert [answer async for answer in call] == [b"%d" % number for number in range(200)]
        await sending


async def test_a_server_that_ends_first(channel: Channel) -> None:
    async with channel.stream(SERVICE + "Bidi", None, timeout=20) as call:
        await call.send(ask(end=True))
        assert await call.recv() is None
        await call.send(b"nobody reads this")
        await call.done_writing()
    async with channel.stream(SERVICE + "Bidi", None, timeout=20) as call:
        await call.send(ask(status=[9, "no"]))
        with pytest.raises(PortsideError, match="no"):
            await call.recv()
        with pytest.raises(PortsideError, match="no"):
            await call.send(b"nobody reads this")


async def test_deadlines(channel: Channel, probe: Probe) -> None:
    with pytest.raises(DeadlineExceeded):
        await channel.unary(SERVICE + "Unary", ask(wait=True), None, timeout=0.1)
    await probe.wait(probe.cancelled)
    with pytest.raises(DeadlineExceeded):
        await channel.unary(SERVICE + "Unary", b"", None, timeout=0)
    probe.cancelled.clear()
    with pytest.raises(DeadlineExceeded):
        _ = [a async for a in channel.server_stream(SERVICE + "ServerStream", ask(wait=True), None, timeout=0.1)]


async def test_a_cancelled_caller_cancels_the_call(channel: Channel, probe: Probe) -> None:
    call = asyncio.ensure_future(channel.unary(SERVICE + "Unary", ask(wait=True), None))
    await probe.wait(probe.entered)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await probe.wait(probe.cancelled)
    assert channel._link is not None and not channel._link.calls


async def test_an_iterator_closed_early_cancels_the_call(channel: Channel, probe: Probe) -> None:
    answers = channel.server_stream(SERVICE + "ServerStream", ask(sizes=[5], wait=True), None)
    assert len(await anext(answers)) == 5
    await probe.wait(probe.entered)
    await answers.aclose()  # type: ignore[attr-defined]
    await probe.wait(probe.cancelled)


async def test_closing_the_channel_ends_its_calls(channel: Channel, probe: Probe) -> None:
    call = asyncio.ensure_future(channel.unary(SERVICE + "Unary", ask(wait=True), None))
    await probe.wait(probe.entered)
    await channel.close()
    with pytest.raises(Unavailable, match="closed"):
        await call
    with pytest.raises(Unavailable, match="closed"):
        await channel.unary(SERVICE + "Unary", b"", None)


async def test_too_many_messages_for_a_unary_call(channel: Channel) -> None:
    for sizes in ([], [1, 2]):
        with pytest.raises(Internal, match=f"{len(sizes)} messages"):
            await channel.unary(SERVICE + "ServerStream", ask(sizes=sizes), None, timeout=20)


async def test_nobody_serves(tmp_path: Path) -> None:
    channel = Channel(str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="nobody serves"):
        await channel.unary(SERVICE + "Unary", b"", None, timeout=5)
    await channel.close()


async def test_metadata_that_cannot_be_sent(channel: Channel) -> None:
    for pair in (("UPPER", "x"), ("te", "x"), ("text", "line\nbreak"), ("", "x")):
        with pytest.raises(InvalidArgument):
            await channel.unary(SERVICE + "Unary", b"", None, metadata=[pair])
    with pytest.raises(InvalidArgument):
        await channel.unary("no-slash", b"", None)


@pytest.mark.parametrize("text", ["no-port", "host:port", ""])
def test_addresses_that_are_none(text: str) -> None:
    async def make() -> None:
        Channel(text)

    with pytest.raises(InvalidArgument):
        asyncio.run(make())


@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_that_comes_back(tmp_path: Path, probe: Probe, server: str) -> None:
    channel = Channel(f"unix://{tmp_path}/s")
    for _ in range(3):
        async with SERVERS[server](str(tmp_path / "s"), probe):
            assert await channel.unary(SERVICE + "Unary", b"hi", None, timeout=20) == b"hi"
    await channel.close()


async def test_the_peers_limit_on_streams_is_kept(tmp_path: Path, probe: Probe) -> None:
    async with SERVERS["grpcio"](str(tmp_path / "s"), probe, **{"grpc.max_concurrent_streams": 3}):
        channel = Channel(str(tmp_path / "s"))
        await channel.unary(SERVICE + "Unary", b"", None, timeout=20)  # the settings are here then
        calls = [channel.unary(SERVICE + "Unary", b"%d" % number, None, timeout=60) for number in range(50)]
        assert len(await asyncio.gather(*calls)) == 50
        hanging = [asyncio.ensure_future(channel.unary(SERVICE + "Unary", ask(wait=True), None)) for _ in range(3)]
        await probe.wait(probe.entered)
        with pytest.raises(DeadlineExceeded):
            await channel.unary(SERVICE + "Unary", b"", None, timeout=0.1)
        for call in hanging:
            call.cancel()
        assert await channel.unary(SERVICE + "Unary", b"room again", None, timeout=20) == b"room again"
        await channel.close()


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer(tmp_path: Path, name: str) -> None:
    assert await one(tmp_path, ANSWERS[name]) == b"yes"


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure(tmp_path: Path, name: str) -> None:
    answer, kind, _ = FAILURES[name]
    with pytest.raises(kind if name not in BREAKS_THE_CONNECTION else Unavailable):
        await one(tmp_path, answer)


BREAKS_THE_CONNECTION = {
    "a frame too large",
    "a header block broken",
    "an index without entry",
    "CONTINUATION of nothing",
    "a block not continued",
    "headers without end",
    "more padding than content",
    "an empty padded frame",
    "a short RST_STREAM",
}
"""Here the connection fails, and with it all its calls; the blocking client has but one and blames the server."""


async def one(path: Path, answer: bytes) -> bytes:
    """A call whose answer is ``answer``; it is the same for further attempts."""
    join = serve(path / "s", *[[answer]] * 6)
    channel = Channel(str(path / "s"))
    try:
        return await channel.unary("/t.S/M", b"q", None, timeout=20)
    finally:
        await channel.close()
        await asyncio.to_thread(join)


async def test_a_silent_server_is_found_out(tmp_path: Path) -> None:
    """It takes the call and then says nothing, not even to a PING."""
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: taken.append(writer), tmp_path / "s")
    channel = Channel(str(tmp_path / "s"), keepalive=0.05)
    with pytest.raises(Unavailable, match="PING"):
        await channel.unary(SERVICE + "Unary", b"", None, timeout=20)
    await channel.close()
    for writer in taken:
        writer.close()
    server.close()


async def test_a_channel_that_is_closed_while_it_connects(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()
        ended.set()

    async with await asyncio.start_unix_server(serve, tmp_path / "s"):
        channel = Channel(str(tmp_path / "s"))
        calling = asyncio.ensure_future(channel.unary(SERVICE + "Unary", b"", None, timeout=20))
        while not channel._connecting.locked():  # noqa: ASYNC110
            await asyncio.sleep(0)
        await channel.close()
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable, match="closed"):
                await calling
            await ended.wait()


@pytest.mark.parametrize("server", SERVERS)
async def test_keepalive_leaves_a_living_server_alone(tmp_path: Path, probe: Probe, server: str) -> None:
    async with SERVERS[server](str(tmp_path / "s"), probe):
        channel = Channel(str(tmp_path / "s"), keepalive=0.3)
        with pytest.raises(DeadlineExceeded):
            await channel.unary(SERVICE + "Unary", ask(wait=True), None, timeout=1)
        assert await channel.unary(SERVICE + "Unary", b"fine", None, timeout=20) == b"fine"
        await channel.close()


async def test_a_server_that_drains_loses_no_call(tmp_path: Path, probe: Probe) -> None:
    first, second = GrpcServer(our_methods(probe)), GrpcServer(our_methods(probe))
    await first.listen_unix(tmp_path / "s")
    channel = Channel(str(tmp_path / "s"))
    async with channel.stream(SERVICE + "Bidi", None, timeout=20) as call:
        await call.send(b"before")
        assert await call.recv() == b"before"
        draining = asyncio.ensure_future(first.drain(20))
        await call.send(b"meanwhile")
        assert await call.recv() == b"meanwhile"
        await second.listen_unix(tmp_path / "s")
        assert await channel.unary(SERVICE + "Unary", b"elsewhere", None, timeout=20) == b"elsewhere"
        await call.done_writing()
        assert await call.recv() is None
    await draining
    await channel.close()
    await second.drain(0)


async def test_a_server_that_dies_fails_its_calls_once(tmp_path: Path, probe: Probe) -> None:
    server = GrpcServer(our_methods(probe))
    await server.listen_unix(tmp_path / "s")
    channel = Channel(str(tmp_path / "s"))
    calls = [asyncio.ensure_future(channel.unary(SERVICE + "Unary", ask(wait=True), None)) for _ in range(3)]
    await probe.wait(probe.entered)
    await server.drain(0)
    for call in calls:
        with pytest.raises(PortsideError):
            await call
    with pytest.raises(Unavailable):
        await channel.unary(SERVICE + "Unary", b"", None, timeout=20)
    await channel.close()


async def test_tcp(probe: Probe) -> None:
    server = GrpcServer(our_methods(probe))
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener)
    for address in (f"127.0.0.1:{listener.getsockname()[1]}", f"tcp://127.0.0.1:{listener.getsockname()[1]}"):
        channel = Channel(address)
        assert await channel.unary(SERVICE + "Unary", b"tcp", None, timeout=20) == b"tcp"
        await channel.close()
    await server.drain(0)
