"""containerd.services.transfer.v1.Transfer: objects with the streams that they name become objects with callbacks.

Streams belong to the call from when it takes them: they are closed when it has ended, however it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from portside.api.containerd.transfer_streams import LogQueue, ProgressQueue, asker
from portside.api.context import bound
from portside.client.byte_streams import ByteWriter, read_bytes
from portside.convert.transfer import (
    image_store_from_pb,
    parse_any,
    platforms_from_pb,
    snapshot_from_pb,
)
from portside.core.anymessage import AnyMessage
from portside.core.services import Backend
from portside.core.streaming import Stream, StreamService
from portside.core.transfer import (
    ImageExportStream,
    ImageImportStream,
    OCIRegistry,
    ProgressCallback,
    ReadStream,
    TransferObject,
    WriteStream,
)
from portside.errors import InvalidArgument, Unimplemented
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.transfer.v1 import transfer_pb2 as pb
from portside.wire.pb.containerd.types.transfer import (
    container_pb2,
    imagestore_pb2,
    importexport_pb2,
    registry_pb2,
    streaming_pb2,
)
from portside.wire.pb.google.protobuf import any_pb2, empty_pb2
from portside.wire.pb.portside.types.transfer.v1 import snapshot_pb2

log = logging.getLogger(__name__)
SERVICE = pb.DESCRIPTOR.services_by_name["Transfer"]

_KINDS: dict[str, type[Any]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        registry_pb2.OCIRegistry, imagestore_pb2.ImageStore, importexport_pb2.ImageImportStream,
        importexport_pb2.ImageExportStream, streaming_pb2.ReadStream, streaming_pb2.WriteStream, snapshot_pb2.Snapshot,
    )
}  # fmt: skip


class TransferService:
    """Transfers of all namespaces."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def transfer(self, request: pb.TransferRequest, call: Call) -> empty_pb2.Empty:
        """One transfer. A client that goes away cancels it."""
        services = bound(self._backend, call)
        async with _Objects(services.streaming) as objects:
            progress = await objects.progress(request.options.progress_stream)
            source = await objects.convert(request.source, "source")
            destination = await objects.convert(request.destination, "destination")
            await services.transfer.transfer(source, destination, progress)
            await objects.finish()
        return empty_pb2.Empty()


class _Objects:
    """The objects of one call, and the streams behind them."""

    def __init__(self, streaming: StreamService) -> None:
        self._streaming = streaming
        self._streams: list[Stream] = []
        self._outputs: list[tuple[Stream, ByteWriter]] = []
        self._progress: ProgressQueue | None = None
        self._logs: LogQueue | None = None

    async def __aenter__(self) -> _Objects:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream, writer in self._outputs:
            await writer.stop()
            if error is not None:
                await stream.fail("the transfer has failed")
        if self._progress is not None:
            await self._progress.close()
        if self._logs is not None:
            await self._logs.close()
        for stream in self._streams:
            await stream.close()

    async def finish(self) -> None:
        """It went well: everything written is taken by who reads it."""
        for _, writer in self._outputs:
            await writer.close()

    async def progress(self, id: str) -> ProgressCallback | None:
        """The callback for a stream of progress; None without one."""
        if not id:
            return None
        self._progress = ProgressQueue(await self._take(id))
        return self._progress.put

    async def convert(self, value: any_pb2.Any, role: str) -> TransferObject:
        """InvalidArgument for what is no object of transfers; NotFound for a stream that is not there."""
        message = _parsed(AnyMessage(value.type_url, value.value), f"transfer {role}")
        match message:
            case registry_pb2.OCIRegistry():
                return await self._registry(message)
            case imagestore_pb2.ImageStore():
                return image_store_from_pb(message)
            case snapshot_pb2.Snapshot():
                return snapshot_from_pb(message)
            case importexport_pb2.ImageImportStream():
                chunks = read_bytes(await self._take(message.stream), "import stream")
                return ImageImportStream(chunks, message.media_type, message.force_compress)
            case importexport_pb2.ImageExportStream():
                platforms = platforms_from_pb(message.platforms)
                return ImageExportStream(
                    await self._output(message.stream, "export stream"), message.media_type, platforms,
                    message.all_platforms, message.skip_compatibility_manifest, message.skip_non_distributable,
                )  # fmt: skip
            case streaming_pb2.ReadStream():
                return ReadStream(read_bytes(await self._take(message.stream), "layer stream"), message.media_type)
            case streaming_pb2.WriteStream():
                return WriteStream(await self._output(message.stream, "layer stream"), message.media_type)
        raise AssertionError(f"{value.type_url} is in the table and has no case")

    async def _registry(self, message: registry_pb2.OCIRegistry) -> OCIRegistry:
        resolver = message.resolver
        trace: Callable[[str], None] | None = None
        if resolver.http_debug:
            trace = _to_our_log
            if resolver.logs_stream:
                self._logs = LogQueue(await self._take(resolver.logs_stream))
                trace = self._logs.put
        credentials = asker(await self._take(resolver.auth_stream)) if resolver.auth_stream else None
        return OCIRegistry(
            message.reference, credentials, dict(resolver.headers), resolver.host_dir, resolver.default_scheme, trace
        )

    async def _take(self, id: str) -> Stream:
        stream = await self._streaming.take(id)
        self._streams.append(stream)
        return stream

    async def _output(self, id: str, what: str) -> Any:
        stream = await self._take(id)
        writer = ByteWriter(stream, what)
        self._outputs.append((stream, writer))
        return writer.write


def _parsed(value: AnyMessage, what: str) -> Any:
    if not value.type_url:
        raise InvalidArgument(f"{what}: nothing is given")
    if value.type_name == container_pb2.ContainerPath.DESCRIPTOR.full_name:
        raise Unimplemented(f"{what}: {value.type_name} is not supported")
    kind = _KINDS.get(value.type_name)
    if kind is None:
        raise InvalidArgument(f"{what}: {value.type_url[:200]!r} is not an object of transfers")
    return parse_any(value, kind, what)


def _to_our_log(text: str) -> None:
    log.debug("%s", text.rstrip())
