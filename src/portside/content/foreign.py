"""Blobs in a content store that somebody else runs (a proxy plugin): ``driver.BlobDriver`` over ``ContentStore``.

The store belongs to one engine, as its own directory would: blobs that no record knows are removed there. Calls come
from worker threads and are made on the event loop, each within its time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from portside.content.driver import IngestFacts
from portside.core.content import ContentReader, ContentStore, ContentWriter, IngestStatus
from portside.errors import DeadlineExceeded, NotFound, PortsideError, Unavailable
from portside.oci.digest import Digest

T = TypeVar("T")

_PIECE = 1 << 20


class ForeignBlobs:
    """``store`` is somebody else's, ``what`` in errors; a call has ``quick`` seconds, one that moves data
    ``seconds``. Made on the event loop."""

    def __init__(self, store: ContentStore, what: str, quick: float, seconds: float) -> None:
        self.root = Path(what)
        self._store, self._what, self._quick, self._seconds = store, what, quick, seconds
        self._loop = asyncio.get_running_loop()
        self._open_keys: set[str] = set()
        self._closing: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Wait for writers that are being closed; the store stays whoever's it is."""
        await asyncio.gather(*self._closing.values(), return_exceptions=True)

    def size(self, digest: Digest) -> int | None:
        """A blob's size in bytes; None if it is not there."""
        try:
            return self.call(self._store.info(digest)).size
        except NotFound:
            return None

    def reader(self, digest: Digest, size: int) -> ContentReader:
        """Nothing is opened: each read is a call."""
        return _Reader(self, self._store, digest, size)

    def pieces(self, digest: Digest, size: int) -> Iterator[bytes]:
        """The first ``size`` bytes of a blob."""
        reader = self.call(self._store.open(digest))
        for offset in range(0, size, _PIECE):
            yield self.move(reader.read(offset, min(_PIECE, size - offset)))

    def remove(self, digest: Digest) -> None:
        """Delete a blob; missing is fine."""
        with suppress(NotFound):
            self.call(self._store.delete(digest))

    def digests(self) -> Sequence[tuple[Digest, int]]:
        """All blobs with their sizes."""

        async def collect() -> list[tuple[Digest, int]]:
            return [(info.digest, info.size) async for info in self._store.list()]

        return self.move(collect())

    def ingest(self, key: str, total: int = 0, what: str = "") -> ForeignIngest:
        """Open or resume an ingest; Unavailable if it is open."""
        self.call(self._settled(key))
        if key in self._open_keys:
            raise Unavailable(f"ingest {what or key}: its ref is locked by another writer")
        self._open_keys.add(key)
        try:
            return ForeignIngest(self, key, self.call(self._store.writer(key, total)))
        except BaseException:
            self._open_keys.discard(key)
            raise

    def facts(self, key: str) -> IngestFacts:
        """Where an ingest stands; NotFound."""
        self.call(self._settled(key))
        return _facts(self.call(self._store.status(key)))

    def keys(self) -> Sequence[str]:
        """The keys of all ingests."""
        return [status.ref for status in self.call(self._store.list_statuses())]

    def is_open(self, key: str) -> bool:
        """Whether we write it now."""
        return key in self._open_keys

    def abort(self, key: str) -> None:
        """Remove an ingest; NotFound."""
        self.call(self._settled(key))
        if key in self._open_keys:
            raise Unavailable(f"abort ingest {key}: it is locked by a writer")
        self.call(self._store.abort(key))

    def close_soon(self, key: str, writer: ContentWriter) -> None:
        """Close the writer of an ingest, from whatever thread; whoever wants the ingest next waits for it."""
        self._loop.call_soon_threadsafe(self._begin_close, key, writer)

    def _begin_close(self, key: str, writer: ContentWriter) -> None:
        if key in self._open_keys and key not in self._closing:
            self._closing[key] = self._loop.create_task(self._close(key, writer), name=f"close ingest {key}")

    async def _close(self, key: str, writer: ContentWriter) -> None:
        try:
            with suppress(PortsideError):
                await self.within(writer.close())
        finally:
            self._open_keys.discard(key)
            del self._closing[key]

    async def _settled(self, key: str) -> None:
        if key in self._closing:
            await asyncio.wait([self._closing[key]])

    def call(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call from a worker thread; DeadlineExceeded after the time it has."""
        return self._wait(call, self._quick)

    def move(self, call: Coroutine[Any, Any, T]) -> T:
        """As ``call``, for one that moves data."""
        return self._wait(call, self._seconds)

    def _wait(self, call: Coroutine[Any, Any, T], seconds: float) -> T:
        future = asyncio.run_coroutine_threadsafe(self.within(call, seconds), self._loop)
        try:
            return future.result(seconds + 5)
        except FutureTimeoutError:  # the loop itself does not get on
            future.cancel()
            raise DeadlineExceeded(f"{self._what}: no answer") from None

    async def within(self, call: Awaitable[T], seconds: float | None = None) -> T:
        """Make a call on the loop; errors name the store."""
        limit = self._seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                return await call
        except TimeoutError:
            raise DeadlineExceeded(f"{self._what}: no answer within {limit:g} s") from None
        except PortsideError as error:
            raise type(error)(f"{self._what}: {error}") from error


class ForeignIngest:
    """``driver.IngestDriver`` over a writer that is open there."""

    is_local = False

    def __init__(self, blobs: ForeignBlobs, key: str, writer: ContentWriter) -> None:
        self._blobs, self._key, self._writer, self._closed = blobs, key, writer, False
        facts = _facts(blobs.call(writer.status()))
        self.offset, self.total = facts.offset, facts.total
        self.started_ns, self.updated_ns = facts.started_ns, facts.updated_ns

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        self._blobs.move(self._writer.write(memoryview(data)))
        self.offset += len(data)
        self.updated_ns = time.time_ns()

    def truncate(self, size: int) -> None:
        """Go back to 0, or to where it stands; Unimplemented for what lies between."""
        self._blobs.call(self._writer.truncate(size))
        self.offset = size

    def digest(self) -> Digest:
        """Of what is written, as the store has it."""
        return self._blobs.move(self._writer.digest())

    def commit(self, size: int = 0, expected: Digest | None = None) -> Digest:
        """Make it a blob there, and close."""
        try:
            return self._blobs.move(self._writer.commit(size, expected))
        finally:
            self.close()

    def close(self) -> None:
        """Keep it for later; a second time does nothing. It goes on by itself."""
        if not self._closed:
            self._closed = True
            self._blobs.close_soon(self._key, self._writer)


class _Reader:
    """A blob there."""

    def __init__(self, blobs: ForeignBlobs, store: ContentStore, digest: Digest, size: int) -> None:
        self._blobs, self._store, self._digest, self.size = blobs, store, digest, size
        self._open: ContentReader | None = None

    def fileno(self) -> int:
        """-1: the blob is not here."""
        return -1

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        if self._open is None:
            self._open = await self._blobs.within(self._store.open(self._digest))
        return await self._blobs.within(self._open.read(offset, size))

    async def close(self) -> None:
        """Nothing is held."""


def _facts(status: IngestStatus) -> IngestFacts:
    return IngestFacts(status.ref, status.offset, status.total, status.started_ns, status.updated_ns)
