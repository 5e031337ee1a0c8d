"""Blobs and ingests as one namespace sees them; the bytes are in ``content/``.

A blob is on disk once. A namespace has it when there is a record, made by commit. Commit renames the blob first and
records it last; removal takes the record first and the bytes later (``BlobKeeper.collect``), when no namespace has a
record. Both hold the digest's lock, so that bytes that have just been promised to somebody do not go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from portside.content.blobs import BlobStore
from portside.content.blobs import Ingest as DiskIngest
from portside.core.content import ContentInfo, ContentReader, ContentWriter, IngestStatus
from portside.core.filters import content_fields, ingest_fields
from portside.core.leases import Resource
from portside.core.work import in_thread
from portside.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PortsideError,
    Unavailable,
    from_oserror,
)
from portside.metadata.background import Background
from portside.metadata.common import hold, let_go, matching, new_labels, updated_labels
from portside.metadata.database import Database, Transaction
from portside.metadata.records import Ingest, Scope
from portside.metadata.schema import CONTENT, COUNTERS, INGESTS
from portside.metadata.state import Effect
from portside.oci.digest import Digest

log = logging.getLogger(__name__)

T = TypeVar("T")

INGEST_LIFETIME_NS = 24 * 3600 * 1_000_000_000
"""An ingest that no lease holds may be collected this long after it was opened last."""
MAX_REF = 4096
"""Characters in a ref."""
QUICK_READ = 128 * 1024
"""A read up to this size is tried without leaving the event loop, if the page cache has it."""


_BATCH = 64
"""Blobs deleted at a time."""


class BlobKeeper:
    """The blob store, with a lock per digest and the list of what may have become garbage on disk."""

    def __init__(self, db: Database, blobs: BlobStore, background: Background) -> None:
        self.db, self.blobs, self.background = db, blobs, background
        self.open_refs: set[tuple[str, str]] = set()
        """Namespace and ref of every writer that is open now."""
        self._locks: dict[Digest, tuple[asyncio.Lock, int]] = {}
        self._doomed: set[Digest] = set()
        self._doomed_ingests: set[str] = set()
        db.published.append(self._watch)

    @contextlib.asynccontextmanager
    async def locked(self, digest: Digest | None) -> AsyncIterator[None]:
        """Hold the digest's lock; None locks nothing."""
        if digest is None:
            yield
            return
        lock, users = self._locks.get(digest, (asyncio.Lock(), 0))
        self._locks[digest] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[digest]
            if users == 1:
                del self._locks[digest]
            else:
                self._locks[digest] = (lock, users - 1)

    async def reconcile(self) -> None:
        """Compare disk and records after a start, perhaps after a crash.

        Blobs and ingests that no record knows are marked for ``collect``. A record whose blob is not there, or not of
        the recorded size, is removed with a warning, so that a pull fetches the blob again.
        """
        sizes = await in_thread(lambda: dict(self.blobs.digests()))
        self._doomed.update(digest for digest in sizes if not self._is_wanted(digest))
        state = self.db.state
        for scope in list(state.scopes(CONTENT)):
            for info in list(state.rows(CONTENT, scope).values()):
                if sizes.get(info.digest) != info.size:
                    await self._drop_damaged(scope, info.digest)
        keys = await in_thread(self.blobs.keys)
        known = self._ingest_keys()
        self._doomed_ingests.update(key for key in keys if key not in known)

    async def _drop_damaged(self, scope: Scope, digest: Digest) -> None:
        async with self.locked(digest):
            size = await in_thread(self.blobs.size, digest)
            info = self.db.state.get(CONTENT, scope, digest)
            if info is not None and size != info.size:
                log.error(
                    "blob %s of namespace %s is damaged: %s bytes on disk, %d recorded; forgotten, to be fetched again",
                    digest, scope[0], "no" if size is None else size, info.size,
                )  # fmt: skip
                await self.db.write(lambda tx: tx.delete(CONTENT, scope, digest))

    def doom(self, digest: Digest) -> None:
        """Let ``collect`` look at a blob that may be nobody's."""
        self._doomed.add(digest)

    async def collect(self) -> list[str]:
        """Delete the bytes that nobody has any more; the failures, which are tried again the next time."""
        failures = []
        doomed = sorted(self._doomed)
        for start in range(0, len(doomed), _BATCH):
            failures += await self._collect_blobs(doomed[start : start + _BATCH])
        known = self._ingest_keys()
        keys = [key for key in self._doomed_ingests if key not in known and not self.blobs.is_open(key)]
        self._doomed_ingests.clear()
        failed = await in_thread(_each, self._abort, keys)
        self._doomed_ingests.update(failed)
        return failures + list(failed.values())

    async def _collect_blobs(self, digests: Sequence[Digest]) -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            for digest in digests:  # nobody else holds two of these locks, so the order does not matter
                await stack.enter_async_context(self.locked(digest))
            self._doomed.difference_update(digests)
            unwanted = [digest for digest in digests if not self._is_wanted(digest)]
            failed = await in_thread(_each, self.blobs.remove, unwanted)
        self._doomed.update(failed)
        return list(failed.values())

    def _abort(self, key: str) -> None:
        with contextlib.suppress(NotFound):
            self.blobs.abort(key)

    def _watch(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if effect.new is None and effect.table is CONTENT:
                self._doomed.add(Digest(effect.key))
            elif effect.table is INGESTS and effect.old is not None:
                self._doomed_ingests.add(effect.old.key)
                if effect.old.shared_size and effect.old.expected:
                    self._doomed.add(effect.old.expected)

    def _is_wanted(self, digest: Digest) -> bool:
        state = self.db.state
        return any(digest in state.rows(CONTENT, scope) for scope in state.scopes(CONTENT)) or any(
            ingest.shared_size and ingest.expected == digest
            for scope in state.scopes(INGESTS)
            for ingest in state.rows(INGESTS, scope).values()
        )

    def _ingest_keys(self) -> set[str]:
        state = self.db.state
        return {ingest.key for scope in state.scopes(INGESTS) for ingest in state.rows(INGESTS, scope).values()}


def _each(work: Callable[[T], None], items: Sequence[T]) -> dict[T, str]:
    """Do ``work`` for each of ``items``; those that failed, and why."""
    failed = {}
    for item in items:
        try:
            work(item)
        except PortsideError as error:
            failed[item] = str(error)
            log.warning("collection: %s", error)
    return failed


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
        await self.info(digest)
        return Reader(*await in_thread(self._blobs.open, digest), f"blob {digest}")

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

        Where another namespace has ``expected``, nothing needs to be written: the offset is at the end at once.
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
            here = await in_thread(self._blobs.size, expected) if expected is not None else None
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


async def _status(blobs: BlobStore, record: Ingest) -> IngestStatus:
    expected = str(record.expected or "")
    if record.shared_size:
        size = record.shared_size
        return IngestStatus(record.ref, size, size, expected, record.started_ns, record.started_ns)
    facts = await in_thread(blobs.facts, record.key)
    return IngestStatus(record.ref, facts.offset, facts.total, expected, facts.started_ns, facts.updated_ns)


class Writer:
    """``core.content.ContentWriter``; without a disk ingest while the blob is another namespace's."""

    def __init__(
        self, keeper: BlobKeeper, namespace: str, lease: str, record: Ingest, ingest: DiskIngest | None
    ) -> None:
        self._keeper, self._namespace, self._lease = keeper, namespace, lease
        self._record, self._ingest = record, ingest
        self._size = record.shared_size
        self._turn = asyncio.Lock()
        self._closed = False

    async def status(self) -> IngestStatus:
        """Where it stands."""
        expected, ingest = str(self._record.expected or ""), self._ingest
        if ingest is None:
            started = self._record.started_ns
            return IngestStatus(self._record.ref, self._size, self._size, expected, started, started)
        return IngestStatus(
            self._record.ref, ingest.offset, ingest.total, expected, ingest.started_ns, ingest.updated_ns
        )

    async def digest(self) -> Digest:
        """Of what is written so far, sha256."""
        if self._ingest is None and self._record.expected is not None:
            return self._record.expected
        async with self._turn:
            return self._ingest.digest() if self._ingest is not None else Digest.of(b"")

    async def write(self, data: bytes | memoryview) -> None:
        """Append; ResourceExhausted if the disk is full, after which the same can be tried again."""
        if len(data):
            await self._keeper.background.finish(self._write(data))

    async def truncate(self, size: int) -> None:
        """Go back to ``size`` bytes; OutOfRange beyond what is written."""
        await self._keeper.background.finish(self._truncate(size))

    async def commit(
        self, size: int = 0, expected: Digest | None = None, labels: Mapping[str, str] | None = None
    ) -> Digest:
        """Make it a blob of this namespace, on disk and recorded on return; closes, whatever the outcome.

        FailedPrecondition if it is not what was expected; AlreadyExists if the namespace has it.
        """
        return await self._keeper.background.finish(self._commit(size, expected, new_labels(labels)))

    async def close(self) -> None:
        """Give up the ref; waits for a write that is under way."""
        async with self._turn:
            self._release()

    # Each of these is one turn, and goes on to its end though the caller may be cancelled: a descriptor must not be
    # closed under a thread that writes to it.

    async def _write(self, data: bytes | memoryview) -> None:
        async with self._turn:
            ingest = await self._disk(self._size)
            await in_thread(ingest.write, data)

    async def _truncate(self, size: int) -> None:
        async with self._turn:
            if self._ingest is None and size == self._size:
                return
            ingest = await self._disk(min(size, self._size))
            await in_thread(ingest.truncate, size)

    async def _commit(self, size: int, expected: Digest | None, labels: dict[str, str]) -> Digest:
        async with self._turn:
            self._check_open()
            try:
                if self._ingest is None:
                    return await self._commit_shared(size, expected, labels)
                algorithm = expected.algorithm if expected else "sha256"
                length, digest = self._ingest.offset, await in_thread(self._ingest.digest, algorithm)
                async with self._keeper.locked(digest):
                    with contextlib.suppress(AlreadyExists):
                        await in_thread(self._ingest.commit, size, expected)
                    await self._record_blob(digest, length, labels)
                return digest
            finally:
                self._release()

    async def _commit_shared(self, size: int, expected: Digest | None, labels: dict[str, str]) -> Digest:
        digest = self._record.expected
        if digest is None or (expected is not None and expected != digest):
            raise FailedPrecondition(f"commit blob {digest}: the digest is not the expected {expected}")
        if size and size != self._size:
            raise FailedPrecondition(f"commit blob {digest}: {self._size} bytes written, {size} expected")
        async with self._keeper.locked(digest):
            await self._record_blob(digest, self._size, labels)
        return digest

    async def _record_blob(self, digest: Digest, size: int, labels: dict[str, str]) -> None:
        """Make the blob the namespace's; AlreadyExists if it is, and then the ingest goes, too."""
        scope, namespace = (self._namespace,), self._namespace

        def change(tx: Transaction) -> bool:
            tx.delete(INGESTS, scope, self._record.ref)
            let_go(tx, namespace, self._lease, Resource("ingests", self._record.ref))
            hold(tx, namespace, self._lease, Resource("content", digest))
            if tx.get(CONTENT, scope, digest) is not None:
                return False
            tx.put(CONTENT, scope, digest, ContentInfo(digest, size, labels, tx.now_ns, tx.now_ns))
            fields = {"digest": str(digest), "size": size}
            tx.emit(namespace, "/content/create", "containerd.events.ContentCreate", fields)
            return True

        try:
            fresh = await self._keeper.db.write(change)
        except PortsideError:
            self._keeper.doom(digest)
            raise
        if not fresh:
            raise AlreadyExists(f"blob {digest}: already exists")

    async def _disk(self, size: int) -> DiskIngest:
        """The ingest on disk; what was another namespace's blob is copied, up to ``size`` bytes."""
        self._check_open()
        if self._ingest is None:
            self._ingest = await in_thread(self._copy, size)
            record = replace(self._record, shared_size=0)
            await self._keeper.db.write(lambda tx: tx.put(INGESTS, (self._namespace,), record.ref, record))
            self._record = record
        return self._ingest

    def _copy(self, size: int) -> DiskIngest:
        digest = self._record.expected
        ingest = self._keeper.blobs.ingest(self._record.key, 0, str(digest))
        try:
            ingest.truncate(0)
            if digest is not None and size:
                descriptor, _ = self._keeper.blobs.open(digest)
                try:
                    while ingest.offset < size:
                        ingest.write(os.pread(descriptor, min(1 << 20, size - ingest.offset), ingest.offset))
                finally:
                    os.close(descriptor)
        except BaseException:
            ingest.close()
            raise
        return ingest

    def _check_open(self) -> None:
        if self._closed:
            raise FailedPrecondition(f"ingest {self._record.ref!r}: its writer is closed")

    def _release(self) -> None:
        if not self._closed:
            self._closed = True
            if self._ingest is not None:
                self._ingest.close()
            self._keeper.open_refs.discard((self._namespace, self._record.ref))


class Reader:
    """``core.content.ContentReader`` over a descriptor, which it owns."""

    def __init__(self, descriptor: int, size: int, what: str) -> None:
        self.size = size
        self._descriptor, self._what = descriptor, what
        self._guard = threading.Lock()
        self._users, self._closing = 0, False

    def fileno(self) -> int:
        """-1 once closed."""
        return -1 if self._closing else self._descriptor

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end. OutOfRange is not an error here: beyond the end is empty, too."""
        size = max(0, min(size, self.size - offset))
        if not size or offset < 0:
            return b""
        if size <= QUICK_READ and not self._closing:
            buffer = bytearray(size)
            with contextlib.suppress(OSError):
                count = os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT)
                if count == size:
                    return bytes(buffer)
        return await in_thread(self._read, offset, size)

    async def close(self) -> None:
        """Release the descriptor, once no thread reads from it."""
        with self._guard:
            self._closing = True
            self._close_unused()

    def _read(self, offset: int, size: int) -> bytes:
        with self._guard:
            if self._closing:
                raise FailedPrecondition(f"read {self._what}: closed")
            self._users += 1
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise from_oserror(error, f"read {self._what}") from error
        finally:
            with self._guard:
                self._users -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        if self._closing and not self._users and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
