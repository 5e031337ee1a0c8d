"""Our server and programs that we did not write: grpcio at its limits, ``ctr``, ``nghttp``, ``h2load``."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from portside import errors
from portside.wire.grpc.limits import ServerLimits
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Method, inline, methods_of
from portside.wire.http2.limits import Limits
from portside.wire.pb.containerd.services.version.v1 import version_pb2
from portside.wire.pb.google.rpc import status_pb2
from tests.wire.grpc.raw import Bytes

VERSION = "/containerd.services.version.v1.Version/Version"


class Version:
    @inline
    async def version(self, request: Any, call: Any) -> Any:
        return version_pb2.VersionResponse(version="v1.2.3", revision="abc")


class Echo:
    async def unary(self, message: Bytes, call: Any) -> Bytes:
        return message

    async def details(self, message: Bytes, call: Any) -> Bytes:
        details = status_pb2.Status(code=5, message="gone")
        details.details.add(type_url="example.com/x", value=b"\1\2\3")
        call.set_trailer("grpc-status-details-bin", details.SerializeToString())
        raise errors.NotFound("gone")

    async def stream(self, messages: AsyncIterator[Bytes], call: Any) -> AsyncIterator[Bytes]:
        async for message in messages:
            yield message

    def methods(self) -> list[Method]:
        return [
            Method("/t.E/unary", Bytes, Bytes, self.unary),
            Method("/t.E/details", Bytes, Bytes, self.details),
            Method("/t.E/stream", Bytes, Bytes, self.stream, True, True),
        ]


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    methods = methods_of(version_pb2.DESCRIPTOR.services_by_name["Version"], Version())
    limits = ServerLimits(http2=Limits(ping_interval=60))
    server = GrpcServer([*methods, *Echo().methods()], limits)
    await server.listen_unix(tmp_path / "s")
    yield tmp_path / "s"
    await server.drain(5)
    assert server.statistics() == {"connections": 0, "tasks": 0, "listeners": 0}


OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture
async def channel(path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{path}", options=OPTIONS) as channel:
        yield channel


# grpcio


@pytest.mark.parametrize("size", [0, 1, 16379, 16380, 65536, 1 << 20, 16 << 20])
async def test_sizes(channel: grpc.aio.Channel, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert await channel.unary_unary("/t.E/unary")(message) == message


async def test_a_message_beyond_the_limit(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/t.E/unary")(bytes((16 << 20) + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_many_streams_at_once(channel: grpc.aio.Channel) -> None:
    async def talk(number: int) -> None:
        call = channel.stream_stream("/t.E/stream")()
        for size in (1, 1000, 100_000):
            message = bytes((number,)) * size
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    await asyncio.gather(*map(talk, range(50)))


async def test_many_calls_at_once(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/t.E/unary")
    messages = [b"%d" % number for number in range(500)]
    assert await asyncio.gather(*(call(message) for message in messages)) == messages


async def test_compressed_both_ways(path: Path) -> None:
    options = [("grpc.default_compression_algorithm", grpc.Compression.Gzip.value)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        assert await channel.unary_unary("/t.E/unary")(bytes(100_000)) == bytes(100_000)


async def test_status_details(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/t.E/details")(b"")
    (raw,) = [value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"]
    assert status_pb2.Status.FromString(raw).details[0].value == b"\1\2\3"


async def test_deadline_and_cancellation(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream("/t.E/stream")(timeout=0.05)
    assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    call = channel.stream_stream("/t.E/stream")()
    await call.write(b"x")
    assert await call.read() == b"x"
    call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED
    assert await channel.unary_unary("/t.E/unary")(b"alive") == b"alive"


async def test_a_client_that_pings_too_often_is_told(path: Path) -> None:
    """grpc-core doubles its keepalive time at GOAWAY "too_many_pings" and connects again."""
    options = [
        ("grpc.keepalive_time_ms", 10),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        call = channel.stream_stream("/t.E/stream")()
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
        assert "too_many_pings" in await call.details()
        assert await channel.unary_unary("/t.E/unary")(b"again", wait_for_ready=True) == b"again"


async def test_clients_come_back_after_a_drain(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        for _ in range(3):
            server = GrpcServer(Echo().methods())
            await server.listen_unix(path)
            assert await channel.unary_unary("/t.E/unary")(b"x", wait_for_ready=True) == b"x"
            await server.drain(5)


# Programs


async def run(*words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


@pytest.mark.peer("containerd")
async def test_ctr_version(path: Path) -> None:
    output = await run("ctr", "-a", str(path), "version")
    assert re.search(r"Server:\s+Version:\s+v1\.2\.3\s+Revision:\s+abc", output)


H2LOAD = ["-H", "content-type: application/grpc", "-H", "te: trailers"]


@pytest.mark.peer("nghttp2-client")
@pytest.mark.parametrize(
    "shape",
    [["-c", "1", "-m", "1"], ["-c", "16", "-m", "1"], ["-c", "1", "-m", "16"], ["-c", "4", "-m", "100"],
     ["-c", "2", "-m", "10", "-w", "10", "-W", "10"]],
    ids=" ".join,
)  # fmt: skip
async def test_h2load(path: Path, tmp_path: Path, shape: list[str]) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(5))
    output = await run(
        "h2load",
        "-n",
        "2000",
        *shape,
        "-t",
        "1",
        "-d",
        str(body),
        *H2LOAD,
        "-B",
        f"unix:{path}",
        f"http://localhost{VERSION}",
    )
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in output
    assert "status codes: 2000 2xx" in output


@pytest.mark.peer("nghttp2-client")
@pytest.mark.parametrize(
    "options",
    [[], ["-b", "16"], ["--continuation"], ["-w", "1"], ["-W", "1"], ["--hexdump"], ["-H", f"x: {'y' * 20000}"],
     ["--header-table-size=0"], ["--header-table-size=100", "--header-table-size=4096"],
     ["--encoder-header-table-size=0"]],
    ids=lambda options: options[0][:25] if options else "plain",
)  # fmt: skip
async def test_nghttp(tmp_path: Path, options: list[str]) -> None:
    """nghttp speaks TCP only; padding, CONTINUATION, small windows and tables are its options."""
    server = GrpcServer(methods_of(version_pb2.DESCRIPTOR.services_by_name["Version"], Version()))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await server.listen(listener)
    body = tmp_path / "body"
    body.write_bytes(bytes(5))
    output = await run("nghttp", "-v", "-d", str(body), *H2LOAD, *options, f"http://127.0.0.1:{port}{VERSION}")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert ":status: 200" in plain
    assert "grpc-status: 0" in plain
    await server.drain(5)
