"""The one writer of an ingest, on disk or sharing another namespace's blob."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

from portside.content.driver import IngestDriver
from portside.core.content import ContentInfo, IngestStatus
from portside.core.leases import Resource
from portside.core.work import in_thread
from portside.errors import AlreadyExists, FailedPrecondition, PortsideError
from portside.metadata.blobs import BlobKeeper
from portside.metadata.common import hold, let_go, new_labels
from portside.metadata.database import Transaction
from portside.metadata.records import Ingest
from portside.metadata.schema import CONTENT, INGESTS
from portside.oci.digest import Digest


class Writer:
    """``core.content.ContentWriter``; without a disk ingest while the blob is another namespace's."""

    def __init__(
        self, keeper: BlobKeeper, namespace: str, lease: str, record: Ingest, ingest: IngestDriver | None
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
            if self._ingest is None:
                return Digest.of(b"")
            return self._ingest.digest() if self._ingest.is_local else await in_thread(self._ingest.digest)

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
                length = self._ingest.offset
                digest = expected if expected is not None else await in_thread(self._ingest.digest)
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

    async def _disk(self, size: int) -> IngestDriver:
        """The ingest on disk; what was another namespace's blob is copied, up to ``size`` bytes."""
        self._check_open()
        if self._ingest is None:
            self._ingest = await in_thread(self._copy, size)
            record = replace(self._record, shared_size=0)
            await self._keeper.db.write(lambda tx: tx.put(INGESTS, (self._namespace,), record.ref, record))
            self._record = record
        return self._ingest

    def _copy(self, size: int) -> IngestDriver:
        digest = self._record.expected
        ingest = self._keeper.blobs.ingest(self._record.key, 0, str(digest))
        try:
            ingest.truncate(0)
            if digest is not None and size:
                for data in self._keeper.blobs.pieces(digest, size):
                    ingest.write(data)
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
