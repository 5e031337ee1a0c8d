"""The content store: blobs named by digest, and ingests, which are blobs in the making.

An ingest is named by a *ref* that its writer chooses; it survives its writer and a restart of the daemon, and
is resumed by opening the same ref again. Commit makes it a blob, if size and digest are as expected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from portside.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A committed blob as one namespace sees it; times are nanoseconds since the epoch, UTC, here and everywhere."""

    digest: Digest
    size: int
    labels: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0
    updated_ns: int = 0


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """An ingest: ``offset`` bytes are written, ``total`` are expected (0: unknown)."""

    ref: str
    offset: int
    total: int
    expected: str
    started_ns: int
    updated_ns: int


class ContentReader(Protocol):
    """A committed blob, open for reading. The caller closes it."""

    size: int

    def fileno(self) -> int:
        """A descriptor of the blob, for ``preadv`` and ``sendfile``; -1 where the store is remote."""
        ...

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; empty at the end."""
        ...

    async def close(self) -> None:
        """Release it; a second time does nothing."""
        ...


class ContentWriter(Protocol):
    """The one writer of an ingest. Closing without commit keeps the ingest for a later writer."""

    async def status(self) -> IngestStatus:
        """Where it stands."""
        ...

    async def digest(self) -> Digest:
        """Of what is written so far."""
        ...

    async def write(self, data: bytes | memoryview) -> None:
        """Append at the current offset."""
        ...

    async def truncate(self, size: int) -> None:
        """Go back to ``size`` bytes; OutOfRange beyond what is written."""
        ...

    async def commit(
        self, size: int = 0, expected: Digest | None = None, labels: Mapping[str, str] | None = None
    ) -> Digest:
        """Make it a blob, on disk when this returns.

        FailedPrecondition if ``size`` (not 0) or ``expected`` do not match what was written; AlreadyExists if the
        blob was there already, after which the ingest is gone all the same.
        """
        ...

    async def close(self) -> None:
        """Give up the ref's lock; a second time does nothing."""
        ...


class ContentStore(Protocol):
    """containerd.services.content.v1.Content of one namespace."""

    async def info(self, digest: Digest) -> ContentInfo:
        """NotFound if this namespace does not have the blob."""
        ...

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        """Change labels: ``labels``, ``labels.<key>`` or, with no paths, all; an empty value removes a label."""
        ...

    def list(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        """All blobs that match any of ``filters`` (``core/filters.py``)."""
        ...

    async def delete(self, digest: Digest) -> None:
        """Forget the blob in this namespace; the bytes go when nobody has them any more."""
        ...

    async def open(self, digest: Digest) -> ContentReader:
        """Open for reading; NotFound."""
        ...

    async def status(self, ref: str) -> IngestStatus:
        """NotFound if there is no such ingest."""
        ...

    async def list_statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        """The ingests of this namespace."""
        ...

    async def abort(self, ref: str) -> None:
        """Remove an ingest; NotFound."""
        ...

    async def writer(self, ref: str, total: int = 0, expected: Digest | None = None) -> ContentWriter:
        """Open or resume the ingest ``ref``.

        AlreadyExists if ``expected`` is here already; Unavailable if the ref has a writer now.
        """
        ...


MAX_DOCUMENT = 8 << 20
"""A manifest, index or config larger than this is refused: nobody's is, and it is read into memory."""


async def read_blob(store: ContentStore, digest: Digest, limit: int = MAX_DOCUMENT) -> bytes:
    """A whole small blob; ResourceExhausted above ``limit`` bytes."""
    from portside.errors import DataLoss, ResourceExhausted

    reader = await store.open(digest)
    try:
        if reader.size > limit:
            raise ResourceExhausted(
                f"blob {digest}: {reader.size} bytes, more than the {limit} that a document may have"
            )
        parts: list[bytes] = []
        offset = 0
        while offset < reader.size:
            part = await reader.read(offset, min(1 << 20, reader.size - offset))
            if not part:
                raise DataLoss(f"blob {digest}: ends at {offset} of {reader.size} bytes")
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        await reader.close()
