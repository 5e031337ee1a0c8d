"""The blob store as the metadata keeps it: who may have a blob, and when its bytes go.

A blob is on disk once. A namespace has it when there is a record, made by commit. Commit renames the blob first and
records it last; removal takes the record first and the bytes later (``BlobKeeper.collect``), when no namespace has a
record. Both hold the digest's lock, so that bytes that have just been promised to somebody do not go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TypeVar

from portside.content.driver import BlobDriver
from portside.core.labels import SHAREABLE
from portside.core.locks import KeyedLocks
from portside.core.work import in_thread
from portside.errors import NotFound, PortsideError
from portside.metadata.background import Background
from portside.metadata.database import Database
from portside.metadata.records import Scope
from portside.metadata.schema import CONTENT, INGESTS, NAMESPACES
from portside.metadata.state import Effect
from portside.oci.digest import Digest

log = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 64
"""Blobs deleted at a time."""
_SLICE = 1000
"""Records looked at between two turns of the event loop."""


class BlobKeeper:
    """The blob store, with a lock per digest and the list of what may have become garbage on disk."""

    def __init__(self, db: Database, blobs: BlobDriver, background: Background, *, isolated: bool = False) -> None:
        self.db, self.blobs, self.background, self._isolated = db, blobs, background, isolated
        self.open_refs: set[tuple[str, str]] = set()
        """Namespace and ref of every writer that is open now."""
        self._locks: KeyedLocks[Digest] = KeyedLocks()
        self._turn = asyncio.Lock()
        self._removing: Collection[Digest] = ()
        self._removed: asyncio.Future[None] | None = None
        self._doomed: set[Digest] = set()
        self._doomed_ingests: set[str] = set()
        db.published.append(self._watch)

    @contextlib.asynccontextmanager
    async def locked(self, digest: Digest | None) -> AsyncIterator[None]:
        """Hold the digest's lock; None locks nothing."""
        if digest is None:
            yield
            return
        while digest in self._removing and self._removed is not None:
            await asyncio.shield(self._removed)
        async with self._locks.one(digest):
            yield

    def is_given(self, digest: Digest) -> bool:
        """Whether a namespace may have the blob without writing it, because another one has it.

        Where namespaces are isolated (containerd's ``content_sharing_policy``) only from one whose label
        ``containerd.io/namespace.shareable`` says so: to know a digest is not to know what it stands for.
        """
        state = self.db.state
        return not self._isolated or any(
            (state.get(NAMESPACES, (), scope[0]) or {}).get(SHAREABLE) == "true"
            for scope in state.scopes(CONTENT)
            if digest in state.rows(CONTENT, scope)
        )

    async def reconcile(self) -> None:
        """Compare disk and records after a start, perhaps after a crash.

        Blobs and ingests that no record knows are marked for ``collect``. A record whose blob is not there, or not of
        the recorded size, is removed with a warning, so that a pull fetches the blob again; unless there is no blob
        at all, which looks more like a disk that is not mounted.
        """
        sizes = await in_thread(lambda: dict(self.blobs.digests()))
        async for digest in _in_slices(list(sizes)):
            if not self._is_wanted(digest):
                self._doomed.add(digest)
        state = self.db.state
        records = [(scope, key) for scope in state.scopes(CONTENT) for key in state.rows(CONTENT, scope)]
        if records and not sizes:
            log.error("content store %s: there is no blob at all, and %d are recorded", self.blobs.root, len(records))
            records = []
        async for scope, key in _in_slices(records):
            info = state.get(CONTENT, scope, key)
            if info is not None and sizes.get(info.digest) != info.size:
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
        async with self._turn:
            return [*await self._collect_doomed(), *await self._collect_ingests()]

    async def _collect_doomed(self) -> Collection[str]:
        failed: dict[Digest, str] = {}
        while self._doomed:
            batch = [self._doomed.pop() for _ in range(min(_BATCH, len(self._doomed)))]
            try:
                failed |= await self._collect_blobs(batch)
            except BaseException:
                self._doomed.update(batch, failed)
                raise
        self._doomed.update(failed)
        return failed.values()

    async def _collect_ingests(self) -> Collection[str]:
        known = self._ingest_keys()
        keys = [key for key in self._doomed_ingests if key not in known and not self.blobs.is_open(key)]
        self._doomed_ingests.clear()
        failed = await in_thread(_each, self._abort, keys)
        self._doomed_ingests.update(failed)
        return failed.values()

    async def _collect_blobs(self, digests: Sequence[Digest]) -> dict[Digest, str]:
        """``digests`` without a lock for each, which takes longer than the removal; those that are locked come last."""
        free = [digest for digest in digests if digest not in self._locks]
        self._removing, removed = frozenset(free), asyncio.get_running_loop().create_future()
        self._removed = removed
        try:
            failed = await self._remove(free)
        finally:
            self._removing = ()
            removed.set_result(None)
        for digest in set(digests).difference(free):
            async with self._locks.one(digest):
                failed |= await self._remove([digest])
        return failed

    async def _remove(self, digests: Sequence[Digest]) -> dict[Digest, str]:
        unwanted = [digest for digest in digests if not self._is_wanted(digest)]
        return await in_thread(_each, self.blobs.remove, unwanted)

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


async def _in_slices(items: Sequence[T]) -> AsyncIterator[T]:
    """``items``, with a turn for everybody else now and then."""
    for count, item in enumerate(items, 1):
        yield item
        if count % _SLICE == 0:
            await asyncio.sleep(0)


def _each(work: Callable[[T], None], items: Sequence[T]) -> dict[T, str]:
    """Do ``work`` for each of ``items``; those that failed, and why."""
    failed = {}
    for item in items:
        try:
            work(item)
        except PortsideError as error:
            failed[item] = str(error)
    return failed
