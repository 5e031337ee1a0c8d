"""containerd.services.content.v1.Content as a ``ContentStore``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from portside.convert.basics import timestamp_from_pb
from portside.convert.records import content_info_from_pb, content_info_to_pb, ingest_status_from_pb
from portside.core.content import ContentInfo, IngestStatus
from portside.errors import FailedPrecondition, Internal, OutOfRange, PortsideError, Unimplemented
from portside.oci.digest import Digest
from portside.remote.caller import Caller
from portside.wire.codec import varint
from portside.wire.grpc.client import Channel
from portside.wire.grpc.client_call import Call
from portside.wire.pb.containerd.services.content.v1 import content_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2, field_mask_pb2

SERVICE = "containerd.services.content.v1.Content"
CHUNK = 1 << 20
"""Bytes in one message of a Write."""
IN_FLIGHT = 4
"""Chunks that may be on their way before the first is answered."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a server may take to let go of a ref; after them the call is cancelled."""


class RemoteContent:
    """The blobs of one namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def info(self, digest: Digest) -> ContentInfo:
        """A blob's record."""
        response = await self._caller.call("Info", pb.InfoRequest(digest=digest), pb.InfoResponse)
        return content_info_from_pb(response.info)

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        """Change labels."""
        mask = field_mask_pb2.FieldMask(paths=fieldpaths)
        request = pb.UpdateRequest(info=content_info_to_pb(info), update_mask=mask)
        return content_info_from_pb((await self._caller.call("Update", request, pb.UpdateResponse)).info)

    async def list(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        """All blobs that match."""
        request = pb.ListContentRequest(filters=filters)
        async for page in self._caller.answers("List", request, pb.ListContentResponse):
            for info in page.info:
                yield content_info_from_pb(info)

    async def delete(self, digest: Digest) -> None:
        """Forget a blob."""
        await self._caller.call("Delete", pb.DeleteContentRequest(digest=digest), empty_pb2.Empty)

    async def open(self, digest: Digest) -> RemoteReader:
        """Open for reading."""
        return RemoteReader(self._caller, digest, (await self.info(digest)).size)

    async def status(self, ref: str) -> IngestStatus:
        """Where an ingest stands."""
        response = await self._caller.call("Status", pb.StatusRequest(ref=ref), pb.StatusResponse)
        return ingest_status_from_pb(response.status)

    async def list_statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        """The ingests of this namespace."""
        request = pb.ListStatusesRequest(filters=filters)
        response = await self._caller.call("ListStatuses", request, pb.ListStatusesResponse)
        return [ingest_status_from_pb(status) for status in response.statuses]

    async def abort(self, ref: str) -> None:
        """Remove an ingest."""
        await self._caller.call("Abort", pb.AbortRequest(ref=ref), empty_pb2.Empty)

    async def writer(self, ref: str, total: int = 0, expected: Digest | None = None) -> RemoteWriter:
        """Open or resume an ingest: the server locks the ref with the first message."""
        call = self._caller.dialogue("Write", pb.WriteContentResponse)
        writer = RemoteWriter(call, ref, total, expected or "")
        try:
            await writer.begin()
        except BaseException:
            call.cancel()
            raise
        return writer


class RemoteReader:
    """A blob of the server's; each ``read`` is a call of its own."""

    def __init__(self, caller: Caller, digest: Digest, size: int) -> None:
        self._caller = caller
        self._digest = digest
        self.size = size

    def fileno(self) -> int:
        """-1: the blob is not here."""
        return -1

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        request = pb.ReadContentRequest(digest=self._digest, offset=offset, size=size)
        parts = [part.data async for part in self._caller.answers("Read", request, pb.ReadContentResponse)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def close(self) -> None:
        """Nothing is held."""


class RemoteWriter:
    """An ingest of the server's, held by one Write call.

    Chunks are sent ahead of their answers, so an error of a write may come out of a later call.
    """

    def __init__(self, call: Call[pb.WriteContentResponse], ref: str, total: int, expected: str) -> None:
        self._call = call
        self._ref = ref
        self._total = total
        self._expected = expected
        self._offset = 0
        self._pending = 0  # messages that are not answered yet
        self._last = pb.WriteContentResponse()
        self._closed = False

    async def begin(self) -> None:
        """Ask where the ingest stands, which locks it."""
        await self._ask(
            pb.WriteContentRequest(action=pb.STAT, ref=self._ref, total=self._total, expected=self._expected)
        )
        self._offset = self._last.offset

    async def status(self) -> IngestStatus:
        """Where it stands."""
        await self._settle()
        return IngestStatus(
            self._ref,
            self._offset,
            self._last.total or self._total,
            self._expected,
            timestamp_from_pb(self._last.started_at),
            timestamp_from_pb(self._last.updated_at),
        )

    async def digest(self) -> Digest:
        """Of what is written so far, as the server has it."""
        await self._settle()
        await self._ask(pb.WriteContentRequest(action=pb.STAT, ref=self._ref))
        return Digest.parse(self._last.digest)

    async def write(self, data: bytes | memoryview) -> None:
        """Append; large data goes in chunks."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            chunk = view[start : start + CHUNK]
            head = pb.WriteContentRequest(action=pb.WRITE, ref=self._ref, offset=self._offset).SerializeToString()
            await self._call.send_buffers((head, b"\x32" + varint(len(chunk)), chunk))  # field 6: data, not copied
            self._pending += 1
            self._offset += len(chunk)
            while self._pending >= IN_FLIGHT:
                await self._answer()

    async def truncate(self, size: int) -> None:
        """To nothing, or to where it stands; Unimplemented for what lies between: the protocol has no word for it."""
        if size > self._offset:
            raise OutOfRange(f"ingest {self._ref}: truncate to {size} of {self._offset} bytes")
        if size == 0:
            self._offset = 0  # the next message says so
        elif size != self._offset:
            raise Unimplemented(f"ingest {self._ref}: only to 0 can a remote ingest be truncated, not to {size}")

    async def commit(
        self, size: int = 0, expected: Digest | None = None, labels: Mapping[str, str] | None = None
    ) -> Digest:
        """Make it a blob."""
        if size and size != self._offset:
            raise FailedPrecondition(f"ingest {self._ref}: {self._offset} bytes are written, {size} were expected")
        await self._settle()
        request = pb.WriteContentRequest(
            action=pb.COMMIT, ref=self._ref, offset=self._offset, total=size or self._offset,
            expected=expected or self._expected, labels=labels,
        )  # fmt: skip
        await self._ask(request)
        return Digest.parse(self._last.digest)

    async def close(self) -> None:
        """End the call, so that the server lets go of the ref."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(PortsideError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._call.done_writing()
                    async for _ in self._call:
                        pass
        finally:
            self._call.cancel()

    async def _ask(self, request: pb.WriteContentRequest) -> None:
        await self._call.send(request)
        self._pending += 1
        await self._settle()

    async def _settle(self) -> None:
        while self._pending:
            await self._answer()

    async def _answer(self) -> None:
        response = await self._call.recv()
        if response is None:
            raise Internal(f"ingest {self._ref}: the server ended the write without an answer")
        self._pending -= 1
        self._last = response
