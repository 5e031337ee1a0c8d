"""Garbage collection: marks what is reachable and removes the records of the rest, then what they stood for on disk.

What is reachable is found by ``marking``, in slices between other writes. Garbage is removed in small groups, holders
before what they hold, so that a reader never meets a manifest whose layers have gone. Source of the rules: containerd
docs/garbage-collection.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from portside.metadata.background import Background
from portside.metadata.database import Database, Transaction
from portside.metadata.leases import remove_lease
from portside.metadata.marking import Marking, NodeList, advance
from portside.metadata.references import Node
from portside.metadata.schema import IMAGES, LEASES, MOUNTS, SNAPSHOTS
from portside.metadata.snapshots import remove_snapshot

SLICE = 0.001
"""Seconds the writer is held at a time."""
BATCH = 64
"""Records removed in one transaction."""
GRACE = 5.0
"""Seconds that content, snapshots and mounts which nothing holds are spared by a collection that nobody waits for.
Clients that know nothing of leases write first and refer to it later."""


@dataclass(slots=True)
class Report:
    """What a collection removed: records by table name, snapshot numbers by snapshotter; and how long it took."""

    removed: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    mounts: list[int] = field(default_factory=list)
    """Numbers of activated mounts whose records were removed."""
    failures: list[str] = field(default_factory=list)
    """What could not be freed, of this collection or an earlier one."""
    record_seconds: float = 0.0
    """Until all records were marked and the garbage among them was gone."""
    seconds: float = 0.0
    """In all."""
    next_expiry_ns: int = 0
    """When the next record expires; 0 if none will."""

    def add(self, gone: Sequence[tuple[Node, Any]]) -> None:
        """Note records that were removed."""
        for (table, scope, _), record in gone:
            self.removed[table.name] = self.removed.get(table.name, 0) + 1
            if table is SNAPSHOTS:
                self.numbers.setdefault(scope[1], []).append(record.number)
            elif table is MOUNTS:
                self.mounts.append(record.number)


class Observer:
    """Whoever wants to know of collections, called on the event loop."""

    async def prepare(self) -> None:
        """One is about to begin, and waits for this."""

    def begun(self) -> None:
        """One begins; what was written before this will be seen by it."""

    def ended(self, report: Report) -> None:
        """It came to its end, perhaps with failures in the report."""

    def failed(self, error: BaseException) -> None:
        """It did not."""


class Collector:
    """Collections, one at a time. ``free(report, urgent)`` deletes the bytes of what a report lists and fills in the
    report's failures; ``urgent`` says that somebody waits for the space."""

    def __init__(
        self, db: Database, background: Background, is_open: Callable[[str, str], bool],
        free: Callable[[Report, bool], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._db, self._background, self._is_open, self._free = db, background, is_open, free
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[Report] | None = None
        self._urgent = False
        self.observer = Observer()
        self.delay = 0.0
        """Seconds to wait before each urgent collection, since more removals may come."""

    async def collect(self, urgent: bool = True) -> Report:
        """A whole collection that begins after this call; callers that come while one waits share it.

        An urgent one is for somebody who waits for it, and spares nothing; another spares what is young (``GRACE``).
        """
        self._urgent = self._urgent or urgent
        if self._waiting is None:
            self._waiting = self._background.start(self._collect_in_turn())
        return await asyncio.shield(self._waiting)

    async def _collect_in_turn(self) -> Report:
        if self._urgent and self.delay:
            await asyncio.sleep(self.delay)
        async with self._turn:
            self._waiting = None
            urgent, self._urgent = self._urgent, False
            self.observer.begun()
            try:
                await self.observer.prepare()
                report = await self._collect(urgent)
            except BaseException as error:
                self.observer.failed(error)
                raise
            self.observer.ended(report)
            return report

    async def _collect(self, urgent: bool) -> Report:
        started = time.monotonic()
        report = Report()
        spare_ns = 0 if urgent else int(GRACE * 1e9)
        marking = await self._db.write(partial(self._begin, spare_ns))
        try:
            while not await self._db.write(lambda tx: marking.advance(time.perf_counter() + SLICE)):
                pass
            garbage = NodeList()
            finding = marking.garbage(garbage)
            while not await self._db.write(lambda tx: advance(finding, time.perf_counter() + SLICE)):
                pass
            while garbage:
                batch = [garbage.pop() for _ in range(min(BATCH, len(garbage)))]
                while (gone := await self._db.write(partial(_remove, marking=marking, batch=batch))) is None:
                    pass
                report.add(gone)
        finally:
            self._db.barrier = None
        report.next_expiry_ns = marking.next_expiry_ns
        report.record_seconds = time.monotonic() - started
        await self._free(report, urgent)
        report.seconds = time.monotonic() - started
        return report

    def _begin(self, spare_ns: int, tx: Transaction) -> Marking:
        marking = Marking(tx.state, tx.now_ns, self._is_open, spare_ns)
        self._db.barrier = marking.note
        return marking


def _remove(tx: Transaction, marking: Marking, batch: Sequence[Node]) -> list[tuple[Node, Any]] | None:
    """Remove the records of ``batch`` that are still garbage, and return them; None if marking must go on first."""
    tx.is_collection = True
    if not marking.advance(time.perf_counter() + SLICE):
        return None
    gone: list[tuple[Node, Any]] = []
    for table, scope, key in batch:
        record = tx.get(table, scope, key)
        if record is None or marking.is_kept((table, scope, key)):
            continue
        if table is SNAPSHOTS:
            if tx.state.children(scope, key):
                continue
            remove_snapshot(tx, scope, key)
        elif table is LEASES:
            remove_lease(tx, scope[0], key)
        else:
            tx.delete(table, scope, key)
        if table is IMAGES:
            tx.emit(scope[0], "/images/delete", "containerd.services.images.v1.ImageDelete", {"name": key})
        gone.append(((table, scope, key), record))
    return gone
