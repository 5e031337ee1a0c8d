"""Snapshots as one namespace sees them; their storage is a driver's (``snapshots/``).

A snapshot on disk is a number, given once and never again. It is made on disk first and recorded last, and it is
removed from the records first and from disk later; what a crash leaves between is a number without a record, which
``SnapshotKeeper.reconcile`` finds at the next start. Commit brings the files to disk before it is recorded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from portside.core.filters import snapshot_fields
from portside.core.labels import SNAPSHOT_REF
from portside.core.leases import Resource
from portside.core.mount import Mount
from portside.core.snapshots import Kind, Remembering, SnapshotDriver, SnapshotInfo, Usage
from portside.core.work import in_thread
from portside.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PortsideError,
    Unimplemented,
    from_oserror,
)
from portside.metadata.background import Background
from portside.metadata.common import hold, let_go, matching, new_labels, updated_labels
from portside.metadata.database import Database, Transaction
from portside.metadata.records import Snapshot
from portside.metadata.schema import COUNTERS, SNAPSHOTS

log = logging.getLogger(__name__)

MAX_KEY = 4096
"""Characters in a key."""


class SnapshotKeeper:
    """One driver, the numbers it was given, and those it is to forget."""

    def __init__(self, db: Database, name: str, driver: SnapshotDriver, background: Background) -> None:
        self.db, self.name, self.driver, self.background = db, name, driver, background
        self.counter = f"snapshot/{name}"
        self._doomed: set[int] = set()
        self._unswept = False
        self._sweeping: asyncio.Task[None] | None = None
        self._stuck = ""
        self.stumbled: Callable[[], None] = lambda: None
        """Called when a sweep has failed, which nobody waited for."""
        numbers = [*driver.ids(), *self._recorded(), (db.state.get(COUNTERS, (), self.counter) or 0)]
        self._last = max(numbers)
        self._old = set(driver.ids()) - self._recorded()

    def allocate(self) -> int:
        """A number nobody had before."""
        self._last += 1
        return self._last

    async def create(self, namespace: str, info: SnapshotInfo, parents: Sequence[int]) -> int:
        """Make the place for a new snapshot; its number."""
        number = self.allocate()
        try:
            await in_thread(self._create, number, namespace, info, parents)
        except BaseException as error:
            self.forget([number])
            await self.collect()
            if isinstance(error, OSError):
                raise from_oserror(error, f"{self.name}: create a snapshot") from error
            raise
        return number

    async def commit(self, number: int, namespace: str, info: SnapshotInfo, rebased: int = 0) -> Usage:
        """Bring its files to disk, before it is recorded as ``info``; what it takes.

        ``rebased`` is the number of a parent that it did not have before.
        """
        if rebased and not getattr(self.driver, "rebases", False):  # Drivers of others may be older.
            raise Unimplemented(f"commit snapshot: {self.name} cannot put one on another parent")
        return await in_thread(self._commit, number, namespace, info)

    def _create(self, number: int, namespace: str, info: SnapshotInfo, parents: Sequence[int]) -> None:
        self.driver.create(number, info.kind, parents)
        self._remember(number, namespace, info)

    def _commit(self, number: int, namespace: str, info: SnapshotInfo) -> Usage:
        self._remember(number, namespace, info)
        return self.driver.commit(number, sync=True)

    def _remember(self, number: int, namespace: str, info: SnapshotInfo) -> None:
        """Have the driver, if it can, keep beside the files what they are, for a day when the database is lost."""
        if isinstance(self.driver, Remembering):
            self.driver.remember(number, facts_of(namespace, info))

    def forget(self, numbers: Iterable[int]) -> None:
        """Mark numbers whose records are gone (or never came) for ``collect``."""
        self._doomed.update(numbers)

    def reconcile(self) -> None:
        """Mark what a crash left on disk without a record."""
        if self._old:
            log.info("snapshotter %s: %d leftovers of an earlier run", self.name, len(self._old))
        self.forget(self._old)
        self._old = set()
        self._unswept = True

    async def collect(self) -> list[str]:
        """Take the forgotten out of sight and sweep in the background; what failed, to be tried again the next time."""
        failures = []
        for number in list(self._doomed):
            self._doomed.discard(number)
            try:
                await in_thread(self.driver.remove, number)
                self._unswept = True
            except (PortsideError, OSError) as error:
                self._doomed.add(number)
                failures.append(f"{self.name}: remove snapshot {number}: {error}")
        if self._stuck:
            failures.append(self._stuck)
            self._unswept = True
        if self._unswept and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = self.background.start(self._sweep())
        return failures

    async def swept(self) -> None:
        """Wait until what was taken out of sight is deleted, or cannot be."""
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])

    async def _sweep(self) -> None:
        """One at a time, until nothing is left that was put aside meanwhile."""
        while self._unswept:
            self._unswept = False
            try:
                await in_thread(self.driver.sweep)
                self._stuck = ""
            except (PortsideError, OSError) as error:
                self._stuck = f"{self.name}: {error}"
                self.stumbled()

    def _recorded(self) -> set[int]:
        state = self.db.state
        return {
            snapshot.number
            for scope in state.scopes(SNAPSHOTS)
            if scope[1] == self.name
            for snapshot in state.rows(SNAPSHOTS, scope).values()
        }


class Snapshots:
    """``core.snapshots.Snapshotter`` of one namespace; what is made is held by ``lease``, if there is one."""

    def __init__(self, keeper: SnapshotKeeper, namespace: str, lease: str) -> None:
        self._keeper, self._db, self._driver = keeper, keeper.db, keeper.driver
        self._namespace, self._lease = namespace, lease
        self._scope = (namespace, keeper.name)

    async def stat(self, key: str) -> SnapshotInfo:
        """From memory, without suspending; NotFound."""
        return self._find(key).info

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        """Change labels; NotFound; InvalidArgument for another path, or without a name."""
        _check_key(info.name)

        def change(tx: Transaction) -> SnapshotInfo:
            old = self._found(tx, info.name)
            labels = updated_labels(old.info.labels, info.labels, fieldpaths, f"snapshot {info.name!r}")
            updated = replace(old.info, labels=labels, updated_ns=tx.now_ns)
            tx.put(SNAPSHOTS, self._scope, info.name, replace(old, info=updated))
            return updated

        return await self._db.write(change)

    async def usage(self, key: str) -> Usage:
        """Counted now for an active snapshot, from the record for a committed one; NotFound."""
        snapshot = self._find(key)
        if snapshot.usage is not None:
            return snapshot.usage
        try:
            return await in_thread(self._driver.usage, snapshot.number)
        except OSError as error:
            raise from_oserror(error, f"count snapshot {key!r}") from error

    async def mounts(self, key: str) -> tuple[Mount, ...]:
        """NotFound; FailedPrecondition for a committed snapshot."""
        snapshot = self._find(key)
        if snapshot.info.kind == Kind.COMMITTED:
            raise FailedPrecondition(f"mounts of snapshot {key!r}: it is committed, neither active nor a view")
        return self._driver.mounts(snapshot.number, snapshot.info.kind, self._parents(snapshot.info.parent))

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """AlreadyExists, also if a snapshot has the name that the label ``SNAPSHOT_REF`` says this is to have.

        NotFound for the parent; InvalidArgument if the parent is not committed.
        """
        return await self._keeper.background.finish(self._create(key, parent, Kind.ACTIVE, new_labels(labels)))

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """As ``prepare``, read-only."""
        return await self._keeper.background.finish(self._create(key, parent, Kind.VIEW, new_labels(labels)))

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """NotFound; FailedPrecondition if ``key`` is not active; AlreadyExists if there is a ``name``.

        InvalidArgument for a ``parent`` that is not committed, or that is not the one it has.
        """
        _check_key(name)
        await self._keeper.background.finish(self._commit(name, key, new_labels(labels), parent))

    async def remove(self, key: str) -> None:
        """NotFound; FailedPrecondition while others stand on it."""
        await self._keeper.background.finish(self._remove(key))

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """Those that match any filter, by name, as of now."""
        records = self._db.state.rows(SNAPSHOTS, self._scope)
        for info in matching([records[key].info for key in sorted(records)], filters, snapshot_fields):
            yield info

    async def cleanup(self) -> None:
        """Free what removed snapshots still hold; FailedPrecondition naming what resists."""
        failures = await self._keeper.collect()
        await in_thread(self._driver.sweep)
        if failures:
            raise FailedPrecondition("; ".join(failures))

    async def _create(self, key: str, parent: str, kind: Kind, labels: dict[str, str]) -> tuple[Mount, ...]:
        _check_key(key)
        target = labels.get(SNAPSHOT_REF, "")
        if target and self._db.state.get(SNAPSHOTS, self._scope, target) is not None:
            raise AlreadyExists(f"target snapshot {target!r}: already exists")
        if self._db.state.get(SNAPSHOTS, self._scope, key) is not None:
            raise AlreadyExists(f"snapshot {key!r}: already exists")
        parents = self._parents(parent)
        made = SnapshotInfo(key, parent, kind, labels, time.time_ns())
        number = await self._keeper.create(self._namespace, made, parents)

        def change(tx: Transaction) -> None:
            if tx.get(SNAPSHOTS, self._scope, key) is not None:
                raise AlreadyExists(f"snapshot {key!r}: already exists")
            if _check_parent(parent, tx.get(SNAPSHOTS, self._scope, parent)) != (parents[0] if parents else 0):
                raise Aborted(f"snapshot {key!r}: its parent {parent!r} was replaced meanwhile")
            info = SnapshotInfo(key, parent, kind, labels, tx.now_ns, tx.now_ns)
            tx.put(SNAPSHOTS, self._scope, key, Snapshot(info, number))
            tx.put(COUNTERS, (), self._keeper.counter, max(number, tx.get(COUNTERS, (), self._keeper.counter) or 0))
            hold(tx, self._namespace, self._lease, self._resource(key))
            if kind == Kind.VIEW:  # nothing will be committed from it: containerd tells nobody
                return
            fields = {"key": key, "parent": parent, "snapshotter": self._keeper.name}
            tx.emit(self._namespace, "/snapshot/prepare", "containerd.events.SnapshotPrepare", fields)

        try:
            await self._db.write(change)
        except BaseException:
            self._keeper.forget([number])
            await self._keeper.collect()
            raise
        return self._driver.mounts(number, kind, parents)

    async def _commit(self, name: str, key: str, labels: dict[str, str], parent: str) -> None:
        taken = self._db.state.get(SNAPSHOTS, self._scope, name)
        if taken is not None and self._db.state.get(SNAPSHOTS, self._scope, key) is None:
            raise AlreadyExists(f"commit snapshot {key!r}: {name!r} already exists")  # a commit that is tried again
        snapshot = self._find(key)
        self._check_commit(name, snapshot, taken)
        parent = _new_parent(snapshot.info, parent)
        rebased = self._parents(parent)[0] if parent != snapshot.info.parent else 0
        try:
            made = SnapshotInfo(name, parent, Kind.COMMITTED, labels, time.time_ns())
            usage = await self._keeper.commit(snapshot.number, self._namespace, made, rebased)
        except OSError as error:
            raise from_oserror(error, f"commit snapshot {key!r}") from error

        def change(tx: Transaction) -> None:
            old = self._found(tx, key)
            self._check_commit(name, old, tx.get(SNAPSHOTS, self._scope, name))
            if rebased and _check_parent(parent, tx.get(SNAPSHOTS, self._scope, parent)) != rebased:
                raise Aborted(f"commit snapshot {key!r}: its new parent {parent!r} was replaced meanwhile")
            info = SnapshotInfo(name, parent, Kind.COMMITTED, labels, tx.now_ns, tx.now_ns)
            tx.delete(SNAPSHOTS, self._scope, key)
            tx.put(SNAPSHOTS, self._scope, name, Snapshot(info, old.number, usage))
            let_go(tx, self._namespace, self._lease, self._resource(key))
            hold(tx, self._namespace, self._lease, self._resource(name))
            fields = {"key": key, "name": name, "snapshotter": self._keeper.name}
            tx.emit(self._namespace, "/snapshot/commit", "containerd.events.SnapshotCommit", fields)

        await self._db.write(change)

    async def _remove(self, key: str) -> None:
        def change(tx: Transaction) -> int:
            number = self._found(tx, key).number
            if tx.state.children(self._scope, key):
                raise FailedPrecondition(f"remove snapshot {key!r}: other snapshots stand on it")
            remove_snapshot(tx, self._scope, key)
            let_go(tx, self._namespace, self._lease, self._resource(key))
            return number

        self._keeper.forget([await self._db.write(change)])
        await self._keeper.collect()

    def _check_commit(self, name: str, snapshot: Snapshot, taken: Snapshot | None) -> None:
        if snapshot.info.kind != Kind.ACTIVE:
            raise FailedPrecondition(f"commit snapshot {snapshot.info.name!r}: it is not active")
        if taken is not None:
            raise AlreadyExists(f"commit snapshot {snapshot.info.name!r}: {name!r} already exists")

    def _parents(self, parent: str) -> list[int]:
        """The numbers of ``parent`` and those below it, lowest last."""
        numbers = []
        while parent:
            snapshot = self._db.state.get(SNAPSHOTS, self._scope, parent)
            numbers.append(_check_parent(parent, snapshot))
            parent = snapshot.info.parent if snapshot is not None else ""
        return numbers

    def _find(self, key: str) -> Snapshot:
        snapshot = self._db.state.get(SNAPSHOTS, self._scope, key)
        if snapshot is None:
            raise self._missing(key)
        return snapshot

    def _found(self, tx: Transaction, key: str) -> Snapshot:
        snapshot = tx.get(SNAPSHOTS, self._scope, key)
        if snapshot is None:
            raise self._missing(key)
        return snapshot

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"snapshot {key!r} of {self._keeper.name} in namespace {self._namespace!r}: not found")

    def _resource(self, key: str) -> Resource:
        return Resource(f"snapshots/{self._keeper.name}", key)


def facts_of(namespace: str, info: SnapshotInfo) -> dict[str, Any]:
    """What a driver keeps beside a snapshot's files."""
    facts = {"namespace": namespace, "key": info.name, "parent": info.parent, "kind": int(info.kind)}
    return {**facts, "labels": dict(info.labels), "created": info.created_ns}


def remove_snapshot(tx: Transaction, scope: tuple[str, ...], key: str) -> None:
    """Remove a record and say so; the number is for the caller to forget once this is committed."""
    tx.delete(SNAPSHOTS, scope, key)
    fields = {"key": key, "snapshotter": scope[1]}
    tx.emit(scope[0], "/snapshot/remove", "containerd.events.SnapshotRemove", fields)


def _new_parent(info: SnapshotInfo, parent: str) -> str:
    """What it stands on once committed; InvalidArgument if that cannot be ``parent``."""
    if parent and info.parent and parent != info.parent:
        raise InvalidArgument(f"commit snapshot {info.name!r}: it stands on {info.parent!r}, not on {parent!r}")
    return parent or info.parent


def _check_parent(name: str, parent: Snapshot | None) -> int:
    """The number of a parent that may be one; without a name there is none and the number means nothing."""
    if not name:
        return 0
    if parent is None:
        raise NotFound(f"parent snapshot {name!r}: not found")
    if parent.info.kind != Kind.COMMITTED:
        raise InvalidArgument(f"parent snapshot {name!r}: it is not committed")
    return parent.number


def _check_key(key: str) -> None:
    if not key or len(key) > MAX_KEY or "\0" in key:
        raise InvalidArgument(f"snapshot {key[:100]!r}: want a key of at most {MAX_KEY} characters")
