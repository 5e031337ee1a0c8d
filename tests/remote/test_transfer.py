"""The caller's half of a transfer against servers that do not do what they should."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portside.api.containerd import streaming, transfer
from portside.api.containerd.methods import containerd_methods
from portside.client.byte_streams import ByteWriter
from portside.core.anymessage import AnyMessage
from portside.core.transfer import ImageExportStream, ImageImportStream, ImageStore
from portside.engine.streaming import LocalStream
from portside.errors import (
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    PortsideError,
    Unavailable,
    Unimplemented,
)
from portside.remote import transfer as remote_transfer
from portside.remote.backend import RemoteBackend
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Call, methods_of
from portside.wire.pb.containerd.services.streaming.v1 import streaming_pb2
from portside.wire.pb.containerd.services.transfer.v1 import transfer_pb2 as pb
from portside.wire.pb.containerd.types.transfer import importexport_pb2
from portside.wire.pb.google.protobuf import any_pb2, empty_pb2
from tests.contracts.local import LocalBackend

ACKNOWLEDGED = any_pb2.Any(type_url="google.protobuf.Empty")


class Server:
    """Streaming and Transfer with only so much sense as a test gives them."""

    def __init__(self) -> None:
        self.streams: dict[str, LocalStream] = {}
        self.ends_streams = True
        self.written = b"all of it"
        self.error: PortsideError | None = None
        self.asked: list[pb.TransferRequest] = []

    async def stream(self, requests: AsyncIterator[any_pb2.Any], call: Call) -> AsyncIterator[any_pb2.Any]:
        """As upstream has it: a stream ends when somebody says so, not with the transfer."""
        id = streaming_pb2.StreamInit.FromString((await anext(requests)).value).id
        ours, theirs = LocalStream.pair(id)
        self.streams[id] = theirs
        yield ACKNOWLEDGED

        async def carry() -> None:
            async for message in requests:
                await ours.send(AnyMessage(message.type_url, message.value))
            await ours.end()

        carrying = asyncio.create_task(carry())
        try:
            while (message := await ours.recv()) is not None:
                yield any_pb2.Any(type_url=message.type_url, value=message.value)
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)

    async def transfer(self, request: pb.TransferRequest, call: Call) -> empty_pb2.Empty:
        """Writes ``written`` to an export, and answers."""
        self.asked.append(request)
        if request.destination.type_url.endswith("ImageExportStream"):
            id = importexport_pb2.ImageExportStream.FromString(request.destination.value).stream
            writer = ByteWriter(self.streams[id], "export")
            await writer.write(self.written)
            await writer.stop()
            if self.error is not None:
                await self.streams[id].fail("the transfer has failed")
            elif self.ends_streams:
                await self.streams[id].close()
        if self.error is not None:
            raise self.error
        return empty_pb2.Empty()


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def backend(server: Server, tmp_path: Path) -> AsyncIterator[RemoteBackend]:
    local = LocalBackend(tmp_path / "root")
    services = ("/containerd.services.streaming.v1.", "/containerd.services.transfer.v1.")
    methods = [method for method in containerd_methods(local) if not method.path.startswith(services)]
    methods += [*methods_of(streaming.SERVICE, server), *methods_of(transfer.SERVICE, server)]
    grpc = GrpcServer(methods)
    with tempfile.TemporaryDirectory(prefix="portside") as short:
        await grpc.listen_unix(str(Path(short, "socket")))
        async with await RemoteBackend.connect(str(Path(short, "socket"))) as remote:
            yield remote
        await grpc.drain(0)
    await local.close()


async def export(backend: RemoteBackend) -> bytes:
    data = bytearray()

    async def write(part: bytes) -> None:
        data.extend(part)

    await backend.bind("default").transfer.transfer(ImageStore("x"), ImageExportStream(write))
    return bytes(data)


async def test_an_export_is_what_came_before_its_stream_ended(backend: RemoteBackend, server: Server) -> None:
    assert await export(backend) == server.written
    assert await backend.bind("default").leases.list() == []


async def test_an_export_whose_end_never_comes(
    backend: RemoteBackend, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_transfer, "REST_SECONDS", 0.05)
    server.ends_streams = False
    with pytest.raises(DataLoss, match="the end of what it sends has not come"):
        await export(backend)
    assert await backend.bind("default").leases.list() == []


@pytest.mark.parametrize("error", [NotFound("no such image"), Unavailable("registry"), InvalidArgument("bad")])
async def test_the_error_is_that_of_the_call_not_of_a_stream(
    backend: RemoteBackend, server: Server, error: PortsideError
) -> None:
    """The stream breaks a moment before, and says less."""
    server.error = error
    with pytest.raises(type(error), match=str(error)):
        await export(backend)


async def test_an_import_that_the_server_does_not_read(backend: RemoteBackend, server: Server) -> None:
    """It answers at once: what it needs it has, and the rest is not sent."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)

    await backend.bind("default").transfer.transfer(ImageImportStream(endless()), ImageStore("x"))
    server.error = AlreadyExists("the image")
    with pytest.raises(AlreadyExists, match="the image"):
        await backend.bind("default").transfer.transfer(ImageImportStream(endless()), ImageStore("x"))
    assert await backend.bind("default").leases.list() == []


async def test_each_stream_has_an_id_of_its_own(backend: RemoteBackend, server: Server) -> None:
    await asyncio.gather(*(export(backend) for _ in range(10)))
    assert len(server.streams) == 10


async def test_the_other_end_is_not_ours_to_take(backend: RemoteBackend) -> None:
    with pytest.raises(Unimplemented, match="by the server alone"):
        await backend.bind("default").streaming.take("x")
