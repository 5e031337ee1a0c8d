"""containerd.services.transfer.v1.Transfer as a ``TransferService``: callbacks of objects become streams.

The streams are made under a lease of their own. A server ends them with it, so that what it still had to say when
it answered the call comes to its end: upstream containerd does not end the stream of an export by itself.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from portside.client.byte_streams import ByteWriter, read_bytes
from portside.client.flights import first_error
from portside.client.leasing import LEASE_SECONDS
from portside.convert.basics import platform_to_pb
from portside.convert.transfer import (
    auth_response,
    image_store_to_pb,
    pack_any,
    progress_from_any,
    snapshot_to_pb,
    unpack_any,
)
from portside.core.anymessage import AnyMessage
from portside.core.labels import GC_EXPIRE
from portside.core.leases import LeaseManager
from portside.core.services import Services
from portside.core.streaming import Stream, StreamService
from portside.core.transfer import (
    Chunks,
    CredentialsCallback,
    ImageExportStream,
    ImageImportStream,
    ImageStore,
    OCIRegistry,
    ProgressCallback,
    ReadStream,
    Snapshot,
    TransferObject,
    Write,
    WriteStream,
)
from portside.errors import Cancelled, DataLoss, PortsideError
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.transfer.v1 import transfer_pb2 as pb
from portside.wire.pb.containerd.types.transfer import importexport_pb2, registry_pb2, streaming_pb2
from portside.wire.pb.google.protobuf import any_pb2, empty_pb2

SERVICE = "containerd.services.transfer.v1.Transfer"
REST_SECONDS = 30.0
"""For what is left on the streams once the server has answered."""


class RemoteTransfer:
    """Transfers that the server does."""

    def __init__(self, channel: Channel, services: Services) -> None:
        self._services = services
        self._caller = Caller(channel, SERVICE, services.namespace, services.lease)

    async def transfer(
        self, source: TransferObject, destination: TransferObject, progress: ProgressCallback | None = None
    ) -> None:
        """As the server has it, with the callbacks run here; an error of a callback ends the transfer."""
        async with self._lease() as lease:
            session = _Session(self._services.with_lease(lease.id).streaming)
            try:
                async with asyncio.TaskGroup() as group:
                    session.group = group
                    request = await session.request(source, destination, progress)
                    await self._caller.call("Transfer", request, empty_pb2.Empty, None)
                    await lease.end(sync=session.wants_end)
                    await session.finish()
            except BaseExceptionGroup as failed:
                error = first_error(failed)
                raise error from error.__cause__
            finally:
                await session.close()

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[_Lease]:
        expire = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + LEASE_SECONDS))
        made = await self._services.leases.create(f"streams-{os.urandom(8).hex()}", {GC_EXPIRE: expire})
        lease = _Lease(self._services.leases, made.id)
        try:
            yield lease
        finally:
            await lease.end()


class _Lease:
    """The lease of the streams, ended once."""

    def __init__(self, leases: LeaseManager, id: str) -> None:
        self._leases, self.id = leases, id
        self._ended = False

    async def end(self, sync: bool = False) -> None:
        """Delete it; with ``sync`` the server has ended the streams on return."""
        if not self._ended:
            self._ended = True
            try:
                await self._leases.delete(self.id, sync)
            except PortsideError:
                return  # it expires by itself


class _Session:
    """The streams of one transfer and the tasks that serve them."""

    def __init__(self, streaming: StreamService) -> None:
        self._streaming = streaming
        self._streams: list[Stream] = []
        self._rest: list[asyncio.Task[bool]] = []
        self._others: list[asyncio.Task[None]] = []
        self.group: asyncio.TaskGroup
        self.wants_end = False
        """Whether there is a stream whose end, not that of the call, says that all has come."""

    async def request(
        self, source: TransferObject, destination: TransferObject, progress: ProgressCallback | None
    ) -> pb.TransferRequest:
        """The call, its streams open and served."""
        options = pb.TransferOptions()
        if progress is not None:
            options.progress_stream, stream = await self._open("progress")
            self._rest.append(self.group.create_task(_tell(stream, progress)))
        ends = [await self._pack(end) for end in (source, destination)]
        return pb.TransferRequest(source=ends[0], destination=ends[1], options=options)

    async def finish(self) -> None:
        """The server has answered: what it still had to say. DataLoss if the rest of an export does not come."""
        try:
            async with asyncio.timeout(REST_SECONDS):
                whole = all(await asyncio.gather(*self._rest))
        except TimeoutError:
            whole = False
        if self.wants_end and not whole:
            raise DataLoss("transfer: the server says that it is done, and the end of what it sends has not come")
        for task in self._others:
            task.cancel()

    async def close(self) -> None:
        """Give up what is left of the streams."""
        for stream in self._streams:
            await stream.fail("the transfer is over")

    async def _open(self, kind: str) -> tuple[str, Stream]:
        id = f"{kind}-{time.time_ns() % 1_000_000_000}-{os.urandom(4).hex()}"
        stream = await self._streaming.create(id)
        self._streams.append(stream)
        return id, stream

    async def _pack(self, end: TransferObject) -> any_pb2.Any:
        packed = pack_any(await self._message(end))
        return any_pb2.Any(type_url=packed.type_url, value=packed.value)

    async def _message(self, end: TransferObject) -> Any:
        match end:
            case OCIRegistry():
                return registry_pb2.OCIRegistry(reference=end.reference, resolver=await self._resolver(end))
            case ImageStore():
                return image_store_to_pb(end)
            case Snapshot():
                return snapshot_to_pb(end)
            case ImageImportStream():
                stream = await self._input("import", end.chunks)
                return importexport_pb2.ImageImportStream(
                    stream=stream, media_type=end.media_type, force_compress=end.force_compress
                )
            case ImageExportStream():
                return importexport_pb2.ImageExportStream(
                    stream=await self._output("export", end.write), media_type=end.media_type,
                    platforms=[platform_to_pb(platform) for platform in end.platforms],
                    all_platforms=end.all_platforms, skip_compatibility_manifest=end.skip_compatibility_manifest,
                    skip_non_distributable=end.skip_non_distributable,
                )  # fmt: skip
            case ReadStream():
                stream = await self._input("read", end.chunks)
                return streaming_pb2.ReadStream(stream=stream, media_type=end.media_type)
            case WriteStream():
                stream = await self._output("write", end.write)
                return streaming_pb2.WriteStream(stream=stream, media_type=end.media_type)

    async def _resolver(self, end: OCIRegistry) -> registry_pb2.RegistryResolver:
        resolver = registry_pb2.RegistryResolver(
            headers=end.headers, host_dir=end.host_dir, default_scheme=end.default_scheme
        )
        if end.trace is not None:
            resolver.http_debug = registry_pb2.BOTH
            resolver.logs_stream, stream = await self._open("http-debug-logs")
            self._rest.append(self.group.create_task(_show(stream, end.trace)))
        if end.credentials is not None:
            resolver.auth_stream, stream = await self._open("creds")
            self._others.append(self.group.create_task(_answer(stream, end.credentials)))
        return resolver

    async def _input(self, kind: str, chunks: Chunks) -> str:
        id, stream = await self._open(kind)
        self._others.append(self.group.create_task(_feed(stream, chunks)))
        return id

    async def _output(self, kind: str, write: Write) -> str:
        id, stream = await self._open(kind)
        self._rest.append(self.group.create_task(_drain(stream, write)))
        self.wants_end = True
        return id


async def _tell(stream: Stream, progress: ProgressCallback) -> bool:
    while (message := await _next(stream)) is not None:
        progress(progress_from_any(message))
    return True


async def _answer(stream: Stream, credentials: CredentialsCallback) -> None:
    while (message := await _next(stream)) is not None:
        request = unpack_any(message, registry_pb2.AuthRequest, "auth stream")
        found = await credentials(request.host, request.reference)
        try:
            await stream.send(auth_response(found))
        except Cancelled:
            return


async def _next(stream: Stream) -> AnyMessage | None:
    """None, too, when the stream is lost: what became of the transfer, its call says."""
    try:
        return await stream.recv()
    except Cancelled:
        return None


async def _show(stream: Stream, trace: Callable[[str], None]) -> bool:
    """What a server tells of its requests, in pieces as they come."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        async for chunk in read_bytes(stream, "log stream"):
            trace(decoder.decode(chunk))
    except Cancelled:
        pass  # it is no part of what is transferred
    return True


async def _feed(stream: Stream, chunks: Chunks) -> None:
    """All of ``chunks``. That the server takes no more is no error: it has what it needs, or its answer says why."""
    writer = ByteWriter(stream, "what is sent")
    try:
        async for chunk in chunks:
            try:
                await writer.write(chunk)
            except Cancelled:
                return
        await stream.end()
    finally:
        await writer.stop()


async def _drain(stream: Stream, write: Write) -> bool:
    """All that comes; whether to its end. That it is lost is an error only where the call went well (``finish``)."""
    chunks = read_bytes(stream, "what is received")
    while True:
        try:
            chunk = await anext(chunks, None)
        except Cancelled:
            return False
        if chunk is None:
            return True
        await write(chunk)
