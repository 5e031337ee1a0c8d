"""What a place for blobs must be able to do: here (``blobs``), or with somebody else (``foreign``).

Synchronous: called in worker threads, but for ``reader`` and ``is_open``, which wait for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from portside.core.content import ContentReader
from portside.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class IngestFacts:
    """What the store says of an ingest."""

    key: str
    offset: int
    total: int
    started_ns: int
    updated_ns: int


class BlobDriver(Protocol):
    """Blobs by digest and ingests by key; who may see them is not known here."""

    root: Path
    """Where it is, in words for people."""

    def size(self, digest: Digest) -> int | None:
        """A blob's size in bytes; None if it is not here."""
        ...

    def reader(self, digest: Digest, size: int) -> ContentReader:
        """Open for reading a blob of ``size`` bytes; NotFound, DataLoss."""
        ...

    def pieces(self, digest: Digest, size: int) -> Iterator[bytes]:
        """The first ``size`` bytes of a blob."""
        ...

    def remove(self, digest: Digest) -> None:
        """Delete a blob; missing is fine."""
        ...

    def digests(self) -> Iterable[tuple[Digest, int]]:
        """All blobs with their sizes, in no order."""
        ...

    def ingest(self, key: str, total: int = 0, what: str = "") -> IngestDriver:
        """Open or resume an ingest, which the caller closes or commits."""
        ...

    def facts(self, key: str) -> IngestFacts:
        """Where an ingest stands; NotFound."""
        ...

    def keys(self) -> Sequence[str]:
        """The keys of all ingests."""
        ...

    def is_open(self, key: str) -> bool:
        """Whether someone writes it now."""
        ...

    def abort(self, key: str) -> None:
        """Remove an ingest; NotFound, Unavailable while it is open."""
        ...


class IngestDriver(Protocol):
    """The one writer of an ingest: one thread at a time."""

    is_local: bool
    offset: int
    total: int
    started_ns: int
    updated_ns: int

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        ...

    def truncate(self, size: int) -> None:
        """Go back to ``size`` bytes; OutOfRange beyond what is written."""
        ...

    def digest(self) -> Digest:
        """Of what is written, sha256; waits for nothing if ``is_local``."""
        ...

    def commit(self, size: int = 0, expected: Digest | None = None) -> Digest:
        """Make it a blob and close; FailedPrecondition, or AlreadyExists after which the ingest is gone."""
        ...

    def close(self) -> None:
        """Keep it for later; a second time does nothing."""
        ...
