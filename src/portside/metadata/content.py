"""Blobs and ingests as one namespace sees them (the bytes are in ``content/``, their keeping in ``blobs``)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from portside.content.driver import BlobDriver
from portside.core.content import ContentInfo, ContentReader, ContentWriter, IngestStatus
from portside.core.filters import content_fields, ingest_fields
from portside.core.leases import Resource
from portside.core.work import in_thread
from portside.errors import AlreadyExists, InvalidArgument, NotFound, PortsideError, Unavailable
from portside.metadata.blobs import BlobKeeper
from portside.metadata.common import hold, let_go, matching, updated_labels
from portside.metadata.database import Transaction
from portside.metadata.records import Ingest
from portside.metadata.schema import CONTENT, COUNTERS, INGESTS
from portside.metadata.writer import Writer
from portside.oci.digest import Digest

INGEST_LIFETIME_NS = 24 * 3600 * 1_000_000_000
"""An ingest that no lease holds may be collected this long after it was opened last."""
MAX_REF = 4096
"""Characters in a ref."""


class Content:
    """``core.content.ContentStore`` of one namespace; what is made is held by ``lease``, if there is one."""

    def __init__(self, keeper: BlobKeeper, namespace: str, lease: str) -> None:
        self._keeper, self._db, self._blobs = keeper, keeper.db, keeper.blobs
        self._namespace, self._lease = namespace, lease
        self._scope = (namespace,)

    async def info(self, digest: Digest) -> ContentInfo:
        """From memory, without suspending; NotFound."""
        info = self._db.state.get(CONTENT, self._scope, digest)
        if info is None:
            raise self._missing(digest)
        return info

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        """Change labels; NotFound; InvalidArgument for another path."""

        def change(tx: Transaction) -> ContentInfo:
            old = tx.get(CONTENT, self._scope, info.digest)
            if old is None:
                raise self._missing(info.digest)
            labels = updated_labels(old.labels, info.labels, fieldpaths, f"blob {info.digest}")
            updated = replace(old, labels=labels, updated_ns=tx.now_ns)
            tx.put(CONTENT, self._scope, info.digest, updated)
            return updated

        return await self._db.write(change)

    async def list(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        """Those that match any filter, by digest, as of now."""
        records = self._db.state.rows(CONTENT, self._scope)
        for info in matching([records[digest] for digest in sorted(records)], filters, content_fields):
            yield info

    async def delete(self, digest: Digest) -> None:
        """NotFound. The bytes go with the next collection, if no other namespace has them."""

        def change(tx: Transaction) -> None:
            if tx.get(CONTENT, self._scope, digest) is None:
                raise self._missing(digest)
            tx.delete(CONTENT, self._scope, digest)
            let_go(tx, self._namespace, self._lease, Resource("content", digest))
            tx.emit(self._namespace, "/content/delete", "containerd.events.ContentDelete", {"digest": str(digest)})

        await self._db.write(change)

    async def open(self, digest: Digest) -> ContentReader:
        """NotFound; DataLoss if the file is not what a blob is."""
        info = await self.info(digest)
        # Not in a thread: a client that reads in small pieces opens the blob for each, and an open waits for no data.
        return self._blobs.reader(digest, info.size)

    async def status(self, ref: str) -> IngestStatus:
        """NotFound."""
        return await self._status(self._record(ref))

    async def list_statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        """Those that match any filter, by ref; one that ends meanwhile is left out."""
        records = self._db.state.rows(INGESTS, self._scope)
        found = []
        for record in [records[ref] for ref in sorted(records)]:
            with contextlib.suppress(NotFound):
                found.append(await self._status(record))
        return matching(found, filters, ingest_fields)

    async def abort(self, ref: str) -> None:
        """NotFound; Unavailable while it is written."""
        if (self._namespace, ref) in self._keeper.open_refs:
            raise Unavailable(f"abort ingest {ref!r}: it is locked by a writer")
        record = self._record(ref)

        def change(tx: Transaction) -> None:
            tx.delete(INGESTS, self._scope, ref)
            let_go(tx, self._namespace, self._lease, Resource("ingests", ref))

        await self._db.write(change)
        if not record.shared_size:
            with contextlib.suppress(NotFound):
                await in_thread(self._blobs.abort, record.key)

    async def writer(self, ref: str, total: int = 0, expected: Digest | None = None) -> ContentWriter:
        """Open or resume the ingest ``ref``; AlreadyExists if ``expected`` is here; Unavailable if it is open.

        Where another namespace has ``expected`` and shares it, nothing needs to be written: the offset is at the end
        at once.
        """
        if not ref or len(ref) > MAX_REF or "\0" in ref:
            raise InvalidArgument(f"ingest {ref[:100]!r}: want a ref of at most {MAX_REF} characters")
        if total < 0:
            raise InvalidArgument(f"ingest {ref!r}: a total of {total} bytes")
        name = (self._namespace, ref)
        if name in self._keeper.open_refs:
            raise Unavailable(f"ingest {ref!r}: it is locked by another writer")
        self._keeper.open_refs.add(name)
        opening = self._keeper.background.start(self._open_writer(ref, total, expected))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._keeper.background.spawn(_close_opened(opening), f"close of ingest {ref}")
            raise

    async def _open_writer(self, ref: str, total: int, expected: Digest | None) -> Writer:
        try:
            return await self._opened(ref, total, expected)
        except BaseException:
            self._keeper.open_refs.discard((self._namespace, ref))
            raise

    async def _opened(self, ref: str, total: int, expected: Digest | None) -> Writer:
        async with self._keeper.locked(expected):
            is_given = expected is not None and self._keeper.is_given(expected)
            here = await in_thread(self._blobs.size, expected) if expected is not None and is_given else None
            shared = here if here and total in (0, here) else 0
            record = await self._db.write(lambda tx: self._begin(tx, ref, expected, shared))
        if record is None:
            raise AlreadyExists(f"blob {expected}: already exists")
        ingest = None
        if not shared:
            what = str(expected or ref)
            ingest = await in_thread(self._blobs.ingest, record.key, total, what)
        return Writer(self._keeper, self._namespace, self._lease, record, ingest)

    def _begin(self, tx: Transaction, ref: str, expected: Digest | None, shared: int) -> Ingest | None:
        """Record the ingest; None if the namespace has ``expected`` already, which the lease then holds."""
        if expected is not None and tx.get(CONTENT, self._scope, expected) is not None:
            hold(tx, self._namespace, self._lease, Resource("content", expected))
            return None
        old = tx.get(INGESTS, self._scope, ref)
        if old is None:
            number = (tx.get(COUNTERS, (), "ingest") or 0) + 1
            tx.put(COUNTERS, (), "ingest", number)
            old = Ingest(ref, f"{self._namespace}/{number}/{ref}", None, 0, 0, tx.now_ns)
        expires = 0 if self._lease else tx.now_ns + INGEST_LIFETIME_NS
        record = replace(old, expected=expected, shared_size=shared, expires_ns=expires)
        tx.put(INGESTS, self._scope, ref, record)
        hold(tx, self._namespace, self._lease, Resource("ingests", ref))
        return record

    def _record(self, ref: str) -> Ingest:
        record = self._db.state.get(INGESTS, self._scope, ref)
        if record is None:
            raise NotFound(f"ingest {ref!r} in namespace {self._namespace!r}: not found")
        return record

    async def _status(self, record: Ingest) -> IngestStatus:
        return await _status(self._blobs, record)

    def _missing(self, digest: Digest) -> NotFound:
        return NotFound(f"blob {digest} in namespace {self._namespace!r}: not found")


async def _close_opened(opening: asyncio.Task[Writer]) -> None:
    """Give up a writer whose caller went away while it was opened."""
    with contextlib.suppress(PortsideError):
        await (await opening).close()


async def _status(blobs: BlobDriver, record: Ingest) -> IngestStatus:
    expected = str(record.expected or "")
    if record.shared_size:
        size = record.shared_size
        return IngestStatus(record.ref, size, size, expected, record.started_ns, record.started_ns)
    facts = await in_thread(blobs.facts, record.key)
    return IngestStatus(record.ref, facts.offset, facts.total, expected, facts.started_ns, facts.updated_ns)
