"""Our server behind TLS: clients of grpcio with and without certificates, and peers that speak something else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from portside.errors import InvalidArgument
from portside.wire.grpc.limits import ServerLimits
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Call, Method
from portside.wire.grpc.tls_link import server_context
from tests.support.certificates import Authority
from tests.wire.grpc.servers import Raw

ECHO, STREAM, FLOOD = "/tls.Test/Echo", "/tls.Test/Stream", "/tls.Test/Flood"
SENT: list[int] = []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("certificates")
    made = Authority(directory)
    made.sign("server")
    made.sign("client")
    made.sign("expired", days=-1)
    Authority(directory, "other").sign("stranger")
    return made


async def echo(request: Raw, call: Call) -> Raw:
    return request


async def stream(requests: AsyncIterator[Raw], call: Call) -> AsyncIterator[Raw]:
    async for request in requests:
        yield request


METHODS = [
    Method(ECHO, Raw, Raw, echo),
    Method(STREAM, Raw, Raw, stream, client_streaming=True, server_streaming=True),
]


@dataclass
class Served:
    server: GrpcServer
    port: int


Serve = Callable[..., Any]


@pytest.fixture
async def serve(authority: Authority) -> AsyncIterator[Serve]:
    servers = []

    async def start(*, clients: bool = True, limits: ServerLimits | None = None) -> Served:
        path = authority.directory
        ca = str(path / "ca.crt") if clients else ""
        context = server_context(str(path / "server.crt"), str(path / "server.key"), ca)
        server = GrpcServer(METHODS, limits or ServerLimits())
        servers.append(server)
        listener = socket.create_server(("127.0.0.1", 0))
        await server.listen(listener, context)
        return Served(server, listener.getsockname()[1])

    yield start
    for server in servers:
        await server.drain(0)
        assert server.statistics() == {"connections": 0, "tasks": 0, "listeners": 0}


def channel(authority: Authority, port: int, name: str = "") -> grpc.aio.Channel:
    pair = (authority.pem(f"{name}.key"), authority.pem(f"{name}.crt")) if name else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem("ca.crt"), *pair)
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


async def ask(authority: Authority, port: int, name: str = "", message: bytes = b"hello") -> bytes:
    async with channel(authority, port, name) as opened:
        return await opened.unary_unary(ECHO)(message, timeout=20)


async def refused(authority: Authority, port: int, name: str = "") -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(authority, port, name)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    return caught.value.details() or ""


async def test_a_client_that_we_trust(serve: Serve, authority: Authority) -> None:
    served = await serve()
    assert await ask(authority, served.port, "client") == b"hello"
    large = bytes(range(256)) * (4 << 12)  # 4 MiB
    async with channel(authority, served.port, "client") as opened:
        call = opened.stream_stream(STREAM)
        answers = call(iter([large] * 5), timeout=60)
        assert [answer == large async for answer in answers] == [True] * 5
        ((peer,),) = [served.server.peers()]
        assert peer["address"].startswith("127.0.0.1:") and peer["calls"] == 0


@pytest.mark.parametrize("name", ["", "stranger", "expired"])
async def test_a_client_that_we_do_not(serve: Serve, authority: Authority, name: str) -> None:
    served = await serve()
    await refused(authority, served.port, name)
    assert await ask(authority, served.port, "client") == b"hello"  # the others are served on


async def test_a_server_that_asks_for_nothing(serve: Serve, authority: Authority) -> None:
    served = await serve(clients=False)
    assert await ask(authority, served.port) == b"hello"
    assert await ask(authority, served.port, "stranger") == b"hello"


@pytest.mark.parametrize(
    "greeting",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\x00" * 100,
    ],
)
async def test_a_peer_that_speaks_no_tls(serve: Serve, authority: Authority, greeting: bytes) -> None:
    served = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(greeting)
    async with asyncio.timeout(20):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"\x00")  # no frame of HTTP/2
    writer.close()
    assert await ask(authority, served.port, "client") == b"hello"


async def test_a_handshake_does_not_take_for_ever(serve: Serve, authority: Authority) -> None:
    served = await serve(limits=ServerLimits(handshake_timeout=0.3))
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"\x16\x03\x01")
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    # Nor does a client that shakes hands and then says nothing.
    context = ssl.create_default_context(cafile=str(authority.directory / "ca.crt"))
    context.load_cert_chain(authority.directory / "client.crt", authority.directory / "client.key")
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    async with asyncio.timeout(20):
        assert b"\x00\x00" in await reader.read()  # our SETTINGS, then the end
    writer.close()


async def flood(request: Raw, call: Call) -> AsyncIterator[Raw]:
    for number in range(100_000):
        SENT.append(number)
        yield Raw(bytes(64 << 10))


async def test_a_client_that_does_not_read_holds_up_its_handler(serve: Serve, authority: Authority) -> None:
    served = await serve()
    served.server.methods[FLOOD.encode()] = Method(FLOOD, Raw, Raw, flood, server_streaming=True)
    SENT.clear()
    async with channel(authority, served.port, "client") as opened:
        call = opened.unary_stream(FLOOD)(b"")
        await call.read()
        count = -1
        async with asyncio.timeout(20):
            while count != len(SENT):
                count = len(SENT)
                await asyncio.sleep(0.3)
        assert count < 1000  # windows, buffers of sockets, and a little of ours
        call.cancel()


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_records_in_pieces(serve: Serve, authority: Authority, size: int) -> None:
    """Whatever the boundaries in which bytes arrive; through a relay that cuts them."""
    served = await serve()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step: int) -> None:
        while data := await reader.read(1 << 16):
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", served.port)
        await asyncio.gather(relay(reader, onward, size), relay(onward_reader, writer, 1 << 16))

    relaying = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = relaying.sockets[0].getsockname()[1]
    assert await ask(authority, port, "client", b"x" * 3000) == b"x" * 3000
    relaying.close()


async def test_resuming_is_not_offered(serve: Serve, authority: Authority) -> None:
    served = await serve()
    context = ssl.create_default_context(cafile=str(authority.directory / "ca.crt"))
    context.load_cert_chain(authority.directory / "client.crt", authority.directory / "client.key")
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
    session = writer.get_extra_info("ssl_object").session
    assert session is None or not session.has_ticket
    writer.close()


async def test_strangers_do_not_keep_out_the_users_of_the_machine(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    served = await serve(limits=ServerLimits(max_connections=4))
    await served.server.listen_unix(tmp_path / "socket")
    held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(20):
        assert await reader.read() == b""  # closed at once
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/socket") as opened:
        assert await opened.unary_unary(ECHO)(b"here", timeout=20) == b"here"
    writer.close()
    for _, other in held:
        other.close()
    async with asyncio.timeout(20):
        while served.server.statistics()["connections"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await ask(authority, served.port, "client") == b"hello"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_are_refused(serve: Serve, authority: Authority) -> None:
    served = await serve(clients=False)
    context = ssl.create_default_context(cafile=str(authority.directory / "ca.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", served.port, ssl=context)


async def test_calls_in_progress_end_with_the_server(serve: Serve, authority: Authority) -> None:
    served = await serve()
    async with channel(authority, served.port, "client") as opened:
        call = opened.stream_stream(STREAM)()
        await call.write(b"one")
        assert await call.read() == b"one"
        await served.server.drain(0)
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass


@pytest.mark.parametrize("files", [("missing.crt", "server.key"), ("server.crt", "client.key"), ("server.ext", "")])
def test_files_that_cannot_be_used(authority: Authority, files: tuple[str, str]) -> None:
    cert, key = (str(authority.directory / name) if name else "" for name in files)
    with pytest.raises(InvalidArgument, match=files[0]):
        server_context(cert, key)
    path = authority.directory
    with pytest.raises(InvalidArgument, match="authorities"):
        server_context(str(path / "server.crt"), str(path / "server.key"), str(path / "server.ext"))
