"""containerd.services.content.v1.Content: blobs in and out, in streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.api.context import bound, paths
from portside.convert.basics import timestamp_to_pb
from portside.convert.records import content_info_from_pb, content_info_to_pb, ingest_status_to_pb
from portside.core.content import ContentStore, ContentWriter
from portside.core.services import Backend
from portside.errors import InvalidArgument, OutOfRange
from portside.oci.digest import Digest
from portside.wire.codec import varint
from portside.wire.grpc.service import Call, Framed
from portside.wire.pb.containerd.services.content.v1 import content_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Content"]

_PAGE = 100
READ_CHUNK = 1 << 20
"""Bytes in one message of a Read: large enough to be fast, small enough for every client's message limit."""


class ContentService:
    """The blobs of a namespace."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def _content(self, call: Call) -> ContentStore:
        return bound(self._backend, call).content

    async def info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        """A blob's record."""
        return pb.InfoResponse(info=content_info_to_pb(await self._content(call).info(Digest.parse(request.digest))))

    async def update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        """Change labels."""
        info = await self._content(call).update(content_info_from_pb(request.info), paths(request.update_mask))
        return pb.UpdateResponse(info=content_info_to_pb(info))

    async def list(self, request: pb.ListContentRequest, call: Call) -> AsyncIterator[pb.ListContentResponse]:
        """All blobs that match, a page at a time."""
        page: list[pb.Info] = []
        async for info in self._content(call).list(tuple(request.filters)):
            page.append(content_info_to_pb(info))
            if len(page) == _PAGE:
                yield pb.ListContentResponse(info=page)
                page = []
        if page:
            yield pb.ListContentResponse(info=page)

    async def delete(self, request: pb.DeleteContentRequest, call: Call) -> empty_pb2.Empty:
        """Forget a blob."""
        await self._content(call).delete(Digest.parse(request.digest))
        return empty_pb2.Empty()

    async def read(self, request: pb.ReadContentRequest, call: Call) -> AsyncIterator[Framed]:
        """A part of a blob, from ``offset`` for ``size`` bytes (0: to the end)."""
        reader = await self._content(call).open(Digest.parse(request.digest))
        try:
            offset, end = _window(request, reader.size)
            while offset < end:
                data = await reader.read(offset, min(READ_CHUNK, end - offset))
                if not data:
                    raise OutOfRange(f"blob {request.digest}: ends at {offset}, {end} was asked for")
                yield _framed(offset, data)
                offset += len(data)
        finally:
            await reader.close()

    async def status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        """Where an ingest stands."""
        return pb.StatusResponse(status=ingest_status_to_pb(await self._content(call).status(request.ref)))

    async def list_statuses(self, request: pb.ListStatusesRequest, call: Call) -> pb.ListStatusesResponse:
        """All ingests that match."""
        statuses = await self._content(call).list_statuses(tuple(request.filters))
        return pb.ListStatusesResponse(statuses=[ingest_status_to_pb(status) for status in statuses])

    async def abort(self, request: pb.AbortRequest, call: Call) -> empty_pb2.Empty:
        """Remove an ingest."""
        await self._content(call).abort(request.ref)
        return empty_pb2.Empty()

    async def write(
        self, requests: AsyncIterator[pb.WriteContentRequest], call: Call
    ) -> AsyncIterator[pb.WriteContentResponse]:
        """The dialogue of one ingest: STAT, WRITE and COMMIT, each answered, until a commit or the client's end."""
        session: _WriteSession | None = None
        try:
            async for request in requests:
                if session is None:
                    session = await _WriteSession.open(self._content(call), request)
                yield await session.answer(request)
                if request.action == pb.COMMIT:
                    return
        finally:
            if session is not None:
                await session.writer.close()


class _WriteSession:
    """One writer, and what its client said last of the whole: the total and the expected digest."""

    def __init__(self, ref: str, writer: ContentWriter) -> None:
        self.ref, self.writer = ref, writer
        self.total, self.expected = 0, ""

    @classmethod
    async def open(cls, content: ContentStore, first: pb.WriteContentRequest) -> _WriteSession:
        if not first.ref:
            raise InvalidArgument("content write: the first message must name a ref")
        expected = Digest.parse(first.expected) if first.expected else None
        return cls(first.ref, await content.writer(first.ref, first.total, expected))

    async def answer(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        """Do what one message asks."""
        self.total = request.total or self.total
        self.expected = request.expected or self.expected
        if request.action != pb.STAT:
            await self._write(request)
        status, digest = await self.writer.status(), await self.writer.digest()
        if request.action == pb.COMMIT:
            expected = Digest.parse(self.expected) if self.expected else None
            digest = await self.writer.commit(self.total, expected, dict(request.labels))
        return pb.WriteContentResponse(
            action=request.action,
            started_at=timestamp_to_pb(status.started_ns),
            updated_at=timestamp_to_pb(status.updated_ns),
            offset=status.offset,
            total=self.total,
            digest=digest,
        )

    async def _write(self, request: pb.WriteContentRequest) -> None:
        """Data goes to the end; an offset of 0 starts again, any other must be where the ingest stands."""
        offset = (await self.writer.status()).offset
        if request.offset and request.offset != offset:
            raise OutOfRange(f"ingest {self.ref}: data for offset {request.offset} came, the next is {offset}")
        if not request.offset and offset:
            await self.writer.truncate(0)
        if request.data:
            await self.writer.write(request.data)


def _window(request: pb.ReadContentRequest, size: int) -> tuple[int, int]:
    if request.offset < 0 or request.size < 0:
        raise InvalidArgument(f"read blob {request.digest}: offset {request.offset} and size {request.size}")
    end = request.offset + request.size if request.size else size
    if request.offset > size or end > size:
        raise OutOfRange(f"read blob {request.digest}: {request.offset} to {end} of {size} bytes")
    return request.offset, end


def _framed(offset: int, data: bytes) -> Framed:
    """A ReadContentResponse without copying the data: field 1 (offset) as protobuf writes it, then field 2's header."""
    head = pb.ReadContentResponse(offset=offset).SerializeToString() + b"\x12" + varint(len(data))
    return Framed((head, data))
