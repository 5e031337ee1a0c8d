"""The asyncio shells of ttrpc, one against the other and against peers that misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from portside.errors import DeadlineExceeded, Internal, NotFound, ResourceExhausted, Unavailable, Unimplemented, Unknown
from portside.wire.ttrpc.client import TtrpcClient
from portside.wire.ttrpc.connection import HEADER, MAX_BODY, REQUEST, RESPONSE
from portside.wire.ttrpc.server import TtrpcServer


class Service:
    """Handlers whose progress a test can see and steer."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def echo(self, payload: bytes, metadata: Mapping[str, str]) -> bytes:
        return payload + metadata.get("containerd-namespace-ttrpc", "").encode()

    async def missing(self, payload: bytes, metadata: Mapping[str, str]) -> bytes:
        raise NotFound("container x: not here")

    async def defect(self, payload: bytes, metadata: Mapping[str, str]) -> bytes:
        raise ZeroDivisionError("oops")

    async def hang(self, payload: bytes, metadata: Mapping[str, str]) -> bytes:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return b""

    async def large(self, payload: bytes, metadata: Mapping[str, str]) -> bytes:
        return bytes(int(payload))


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def path(tmp_path: Path, service: Service) -> AsyncIterator[str]:
    names = ("echo", "missing", "defect", "hang", "large")
    server = TtrpcServer({("test.Service", name): getattr(service, name) for name in names})
    await server.start(str(tmp_path / "s"))
    yield str(tmp_path / "s")
    await server.close()
    await server.close()


@pytest.fixture
async def client(path: str) -> AsyncIterator[TtrpcClient]:
    client = await TtrpcClient.connect(path)
    yield client
    await client.close()
    await client.close()


async def test_calls(client: TtrpcClient) -> None:
    assert (
        await client.call("test.Service", "echo", b"hi ", timeout=10, metadata={"containerd-namespace-ttrpc": "ns"})
        == b"hi ns"
    )


@pytest.mark.parametrize(
    ("service_name", "method", "kind", "text"),
    [
        ("test.Service", "missing", NotFound, "container x: not here"),
        ("test.Service", "defect", Unknown, "oops"),
        ("test.Service", "nope", Unimplemented, "test.Service/nope"),
        ("no.Service", "echo", Unimplemented, "no.Service/echo"),
    ],
)
async def test_errors(client: TtrpcClient, service_name: str, method: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        await client.call(service_name, method, b"", timeout=10)


async def test_many_calls_in_flight(client: TtrpcClient) -> None:
    hanging = asyncio.ensure_future(client.call("test.Service", "hang", b"", timeout=60))
    calls = [client.call("test.Service", "echo", b"%d" % number, timeout=30) for number in range(500)]
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(500)]
    assert not hanging.done()
    hanging.cancel()


async def test_large_messages_and_their_limit(client: TtrpcClient) -> None:
    payload = os.urandom(MAX_BODY - 100)
    assert await client.call("test.Service", "echo", payload, timeout=30) == payload
    with pytest.raises(ResourceExhausted):
        await client.call("test.Service", "echo", bytes(MAX_BODY), timeout=30)
    with pytest.raises(ResourceExhausted):
        await client.call("test.Service", "large", b"%d" % MAX_BODY, timeout=30)


async def test_a_deadline_ends_both_sides(client: TtrpcClient, service: Service) -> None:
    with pytest.raises(DeadlineExceeded):
        await client.call("test.Service", "hang", b"", timeout=0.05)
    await asyncio.wait_for(service.cancelled.wait(), 10)
    with pytest.raises(DeadlineExceeded):
        await client.call("test.Service", "echo", b"", timeout=0)
    assert await client.call("test.Service", "echo", b"still here", timeout=10) == b"still here"


async def test_a_peer_that_goes_fails_all_calls(path: str, service: Service, client: TtrpcClient) -> None:
    calls = [asyncio.ensure_future(client.call("test.Service", "hang", b"", timeout=60)) for _ in range(3)]
    await service.entered.wait()
    assert client._transport is not None
    client._transport.abort()
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    await asyncio.wait_for(service.cancelled.wait(), 10)
    await client.wait_closed()
    assert client.closed
    with pytest.raises(Unavailable):
        await client.call("test.Service", "echo", b"", timeout=10)


async def test_closing_a_server_ends_its_calls(tmp_path: Path, service: Service) -> None:
    server = TtrpcServer({("test.Service", "hang"): service.hang})
    await server.start(str(tmp_path / "own"))
    client = await TtrpcClient.connect(str(tmp_path / "own"))
    call = asyncio.ensure_future(client.call("test.Service", "hang", b"", timeout=60))
    await service.entered.wait()
    await server.close()
    assert service.cancelled.is_set() and not server._connections
    with pytest.raises(Unavailable):
        await call
    await client.wait_closed()


async def test_the_socket_is_ours_alone_and_replaces_a_stale_one(tmp_path: Path, service: Service) -> None:
    (tmp_path / "own").touch()
    server = TtrpcServer({("test.Service", "echo"): service.echo})
    await server.start(str(tmp_path / "own"))
    assert stat.S_IMODE(os.stat(tmp_path / "own").st_mode) == 0o600
    assert os.listdir(tmp_path) == ["own"]
    client = await TtrpcClient.connect(str(tmp_path / "own"))
    assert await client.call("test.Service", "echo", b"x", timeout=10) == b"x"
    await client.close()
    await server.close()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await TtrpcClient.connect(str(tmp_path / "none"))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    with pytest.raises(Unavailable):
        await TtrpcClient.connect(str(tmp_path / "dead"))


async def test_a_client_over_a_connected_socket_and_bad_answers() -> None:
    ours, theirs = socket.socketpair()
    client = await TtrpcClient.connect(ours)
    calls = [asyncio.ensure_future(client.call("s", "m", b"", timeout=30)) for _ in range(2)]
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    await reader.readexactly(HEADER.size)
    writer.write(
        HEADER.pack(0, 77, RESPONSE, 0) + HEADER.pack(1, 1, RESPONSE, 0) + b"\xff" + HEADER.pack(9, 3, RESPONSE, 0)
    )
    with pytest.raises(Internal):
        await calls[0]
    writer.close()
    with pytest.raises(Unavailable, match="in the middle"):
        await calls[1]


async def test_a_peer_that_does_not_read_slows_nobody_else(path: str, client: TtrpcClient) -> None:
    _, slow = await asyncio.open_unix_connection(path)
    body = b"\x0a\x0ctest.Service\x12\x05large\x1a\x071000000"
    for number in range(64):
        slow.write(HEADER.pack(len(body), number * 2 + 1, REQUEST, 0) + body)
    await slow.drain()
    assert await client.call("test.Service", "echo", b"quick", timeout=30) == b"quick"
    slow.transport.abort()


async def test_a_caller_that_is_cancelled_leaves_nothing(client: TtrpcClient, service: Service) -> None:
    call = asyncio.ensure_future(client.call("test.Service", "hang", b"", timeout=60))
    await service.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not client._calls and client._connection.streams == 0
