"""Snapshots in a snapshotter that somebody else runs (a proxy plugin), recorded and namespaced as our own are.

There a snapshot has a name that we give, ``<namespace>/<number>/<key>`` (containerd's form), numbers being given once.
A commit keeps the number. One kind of snapshot has another name: where ``prepare`` says with ``SNAPSHOT_REF`` which
committed snapshot is wanted and the snapshotter has it (a *lazy* one, which needs no layer to be unpacked), it answers
AlreadyExists; the snapshot called like the label is then *adopted*, by as many namespaces as ask for it. Its record is
told by having no usage, which grows while the layer is read.

The snapshotter belongs to one engine: names of our form with a number that no record has, and snapshots called like
their own label that nobody has adopted, are garbage there, and ``ForeignKeeper.collect`` removes them. As it looks for
them there, what a crash leaves between a call and its record goes too. The parents of a snapshot go after it.

What does not belong here: how the snapshotter is reached (``engine/proxies.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from portside.core.foreign import ForeignSnapshotter
from portside.core.labels import SNAPSHOT_REF
from portside.core.locks import KeyedLocks
from portside.core.mount import Mount
from portside.core.snapshots import Kind, SnapshotInfo, Snapshotter, Usage
from portside.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PortsideError,
    Unavailable,
    Unimplemented,
    Unknown,
)
from portside.metadata.background import Background
from portside.metadata.common import hold
from portside.metadata.database import Database, Transaction
from portside.metadata.records import Snapshot
from portside.metadata.schema import COUNTERS, NAMESPACES, SNAPSHOTS
from portside.metadata.snapshots import Snapshots

log = logging.getLogger(__name__)

INHERITED = "containerd.io/snapshot/"
"""Labels that begin so, and ``SNAPSHOT_REF``, are passed on; the others are the engine's own."""
PATIENCE = 5.0
"""Seconds that a collection waits for a snapshotter; what is not removed by then goes on being removed."""
_OURS = re.compile(r"[^/]+/([0-9]+)/.", re.DOTALL)


class ForeignKeeper:
    """One foreign snapshotter: the names of what we have there, and what is to be removed there."""

    def __init__(self, db: Database, foreign: ForeignSnapshotter, background: Background) -> None:
        self.db, self.name, self.background = db, foreign.name, background
        self.driver = _Answered()
        self.counter = f"snapshot/{foreign.name}"
        self.targets: KeyedLocks[str] = KeyedLocks()
        """Held while a target is adopted or removed."""
        self._foreign = foreign
        self._asked = {"default"}  # and those in which something was asked for; records may not have come of it
        self._names: dict[int, str] = {}
        for scope in db.state.scopes(SNAPSHOTS):
            if scope[1] == self.name:
                for record in db.state.rows(SNAPSHOTS, scope).values():
                    self._names[record.number] = _name_of(scope[0], record)
        self._last = max([*self._names, db.state.get(COUNTERS, (), self.counter) or 0])
        self._dirty = False
        self._collecting: asyncio.Task[list[str]] | None = None

    def there(self, namespace: str) -> Snapshotter:
        """The snapshotter itself."""
        return self._foreign.bind(namespace)

    def name_of(self, number: int) -> str:
        """What the snapshot is called there; empty for none."""
        return self._names.get(number, "")

    def allocate(self) -> int:
        """A number nobody had before."""
        self._last += 1
        return self._last

    def adopt(self, number: int, name: str) -> None:
        """Number what is called ``name`` there; ``forget`` undoes it."""
        self._names[number] = name

    async def create(self, namespace: str, info: SnapshotInfo, parents: Sequence[int]) -> int:
        """Make a new snapshot there; its number. ``TargetExists`` if what its label asks for is there already."""
        number = self.allocate()
        name = self._names[number] = f"{namespace}/{number}/{info.name}"
        self._asked.add(namespace)
        there = self.there(namespace)
        make = there.view if info.kind == Kind.VIEW else there.prepare
        try:
            mounts = await make(name, self.name_of(parents[0]) if parents else "", inherited(info.labels))
        except AlreadyExists as error:
            self.forget([number])
            if info.labels.get(SNAPSHOT_REF):
                raise TargetExists(str(error)) from error
            raise Unknown(f"snapshotter {self.name}: {name!r}, which is new, is said to exist: {error}") from error
        except BaseException:
            self.forget([number])
            self.collect_soon()
            raise
        self.driver.keep(number, mounts)
        return number

    async def commit(self, number: int, namespace: str, info: SnapshotInfo, rebased: int = 0) -> Usage:
        """Commit it there, before it is recorded as ``info``; what it takes. ``rebased``: on which new parent."""
        name, old, there = f"{namespace}/{number}/{info.name}", self.name_of(number), self.there(namespace)
        try:
            await there.commit(name, old, inherited(info.labels), self.name_of(rebased) if rebased else "")
        except (NotFound, AlreadyExists):
            # An earlier attempt got so far and was not recorded.
            if (await there.stat(name)).kind != Kind.COMMITTED:
                raise
        self._names[number] = name
        return await there.usage(name)

    def forget(self, numbers: Iterable[int]) -> None:
        """Mark numbers whose records are gone (or never came) for ``collect``."""
        for number in numbers:
            self._names.pop(number, None)
            self.driver.drop(number)
            self._dirty = True

    def reconcile(self) -> None:
        """Let the next ``collect`` look for what a crash left."""
        self._dirty = True

    def collect_soon(self) -> None:
        """``collect``, for whoever holds the lock of a target, which it may want."""
        self.background.spawn(self.collect(), f"collection in {self.name}")

    async def collect(self) -> list[str]:
        """Remove what is garbage there; the failures, tried again the next time. Returns after ``PATIENCE``."""
        collecting = self._collecting
        if collecting is None or collecting.done():
            if not self._dirty:
                return []
            collecting = self._collecting = self.background.start(self._collect())
        done, _ = await asyncio.wait([collecting], timeout=PATIENCE)
        return collecting.result() if done else [f"snapshotter {self.name}: does not answer; removal goes on"]

    async def _collect(self) -> list[str]:
        failures: list[str] = []
        while self._dirty and not failures:
            self._dirty = False
            try:
                found = await self._walk()
                failures = await self._remove(found)
                if found:
                    await self.there(next(iter(found.values()))[0]).cleanup()
            except PortsideError as error:
                failures = [str(error)]
        if failures:
            self._dirty = True
            log.warning("collection: %s", "; ".join(failures)[:2000])
        return failures

    async def _walk(self) -> dict[str, tuple[str, SnapshotInfo]]:
        """All that is there by name, with a namespace that it is seen from; most snapshotters know no namespaces."""
        found: dict[str, tuple[str, SnapshotInfo]] = {}
        for namespace in {*self.db.state.rows(NAMESPACES, ()), *self._asked}:
            async for info in self.there(namespace).walk():
                found.setdefault(info.name, (namespace, info))
        return found

    async def _remove(self, found: Mapping[str, tuple[str, SnapshotInfo]]) -> list[str]:
        """Remove the garbage of ``found``, children first."""
        children: dict[str, int] = {}
        for _, info in found.values():
            children[info.parent] = children.get(info.parent, 0) + 1
        ready = [name for name in found if not children.get(name)]
        failures: list[str] = []
        while ready:
            name = ready.pop()
            namespace, info = found[name]
            async with self.targets.one(name):
                if not self._is_garbage(info):
                    continue
                try:
                    await self.there(namespace).remove(name)
                except NotFound:
                    pass
                except (Unavailable, DeadlineExceeded) as error:
                    return [*failures, str(error)]
                except PortsideError as error:
                    failures.append(f"snapshotter {self.name}: remove {name!r}: {error}")
                    continue
            children[info.parent] -= 1
            if not children[info.parent] and info.parent in found:
                ready.append(info.parent)
        return failures

    def _is_garbage(self, info: SnapshotInfo) -> bool:
        if (ours := _OURS.match(info.name)) is not None:
            return int(ours[1]) not in self._names
        return info.labels.get(SNAPSHOT_REF) == info.name and info.name not in self._names.values()


class ForeignSnapshots(Snapshots):
    """``core.snapshots.Snapshotter`` of one namespace over a foreign snapshotter."""

    def __init__(self, keeper: ForeignKeeper, namespace: str, lease: str) -> None:
        super().__init__(keeper, namespace, lease)  # type: ignore[arg-type]
        self._foreign = keeper
        self._there = keeper.there(namespace)

    async def stat(self, key: str) -> SnapshotInfo:
        """NotFound also if the snapshotter has lost it; its own labels are among those that are told."""
        record = self._find(key)
        there = await self._there.stat(self._foreign.name_of(record.number))
        return replace(record.info, labels={**there.labels, **record.info.labels})

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        """As recorded; labels that are passed on are changed there as well."""
        before = inherited(self._find(info.name).info.labels) if info.name else {}
        updated = await super().update(info, fieldpaths)
        if inherited(updated.labels) != before:
            name = self._foreign.name_of(self._find(info.name).number)
            with contextlib.suppress(Unimplemented):
                await self._there.update(replace(updated, name=name, labels=inherited(updated.labels)), ("labels",))
        return updated

    async def usage(self, key: str) -> Usage:
        """From the record of what was committed here, else asked for."""
        record = self._find(key)
        return record.usage or await self._there.usage(self._foreign.name_of(record.number))

    async def mounts(self, key: str) -> tuple[Mount, ...]:
        """NotFound; FailedPrecondition for a committed snapshot."""
        record = self._find(key)
        if record.info.kind == Kind.COMMITTED:
            raise FailedPrecondition(f"mounts of snapshot {key!r}: it is committed, neither active nor a view")
        return await self._there.mounts(self._foreign.name_of(record.number))

    async def cleanup(self) -> None:
        """Free what removed snapshots still hold; FailedPrecondition naming what resists."""
        self._foreign.reconcile()
        if failures := await self._foreign.collect():
            raise FailedPrecondition("; ".join(failures))
        await self._there.cleanup()

    async def _create(self, key: str, parent: str, kind: Kind, labels: dict[str, str]) -> tuple[Mount, ...]:
        target = labels.get(SNAPSHOT_REF, "")
        async with self._foreign.targets.one(target) if target else contextlib.nullcontext():
            try:
                return await super()._create(key, parent, kind, labels)
            except TargetExists:
                await self._adopt(target, parent, labels)
                self._foreign.collect_soon()  # some have made what they were asked for before they see that it is there
                raise AlreadyExists(f"target snapshot {target!r} of {self._foreign.name}: already exists") from None

    async def _adopt(self, target: str, parent: str, labels: dict[str, str]) -> None:
        """Record what the snapshotter has for ``target``; under the target's lock."""
        parents = self._parents(parent)
        there = await self._found_there(target, self._foreign.name_of(parents[0]) if parents else "")
        number = self._foreign.allocate()
        self._foreign.adopt(number, there.name)

        def change(tx: Transaction) -> None:
            if tx.get(SNAPSHOTS, self._scope, target) is not None:
                raise AlreadyExists(f"target snapshot {target!r}: already exists")
            above = tx.get(SNAPSHOTS, self._scope, parent) if parent else None
            if parent and (above is None or above.number != parents[0]):
                raise NotFound(f"parent snapshot {parent!r}: not found")
            all_labels = {**there.labels, **labels}
            info = SnapshotInfo(target, parent, Kind.COMMITTED, all_labels, there.created_ns or tx.now_ns, tx.now_ns)
            tx.put(SNAPSHOTS, self._scope, target, Snapshot(info, number))
            tx.put(COUNTERS, (), self._foreign.counter, max(number, tx.get(COUNTERS, (), self._foreign.counter) or 0))
            hold(tx, self._namespace, self._lease, self._resource(target))

        try:
            await self._db.write(change)
        except BaseException:
            self._foreign.forget([number])
            raise

    async def _found_there(self, target: str, parent: str) -> SnapshotInfo:
        wanted = f"labels.{json.dumps(SNAPSHOT_REF)}=={json.dumps(target)}"
        wanted += f",parent=={json.dumps(parent)}" if parent else ""  # without one the field is not there
        found: AsyncIterator[SnapshotInfo] = self._there.walk([wanted])
        async for info in found:
            if info.kind == Kind.COMMITTED and info.labels.get(SNAPSHOT_REF) == target and info.parent == parent:
                if info.name != target:
                    raise InvalidArgument(f"target snapshot {target!r}: {self._foreign.name} calls it {info.name!r}")
                return info
        raise NotFound(f"target snapshot {target!r}: {self._foreign.name} says that it exists, and does not have it")


class TargetExists(AlreadyExists):
    """The snapshotter has what ``SNAPSHOT_REF`` asks for."""


class _Answered:
    """Mounts as they came with the answer to a prepare, until they are asked for; once."""

    def __init__(self) -> None:
        self._mounts: dict[int, tuple[Mount, ...]] = {}

    def keep(self, number: int, mounts: tuple[Mount, ...]) -> None:
        """To be given by ``mounts``."""
        self._mounts[number] = mounts

    def drop(self, number: int) -> None:
        """Nobody will ask."""
        self._mounts.pop(number, None)

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> tuple[Mount, ...]:
        """Those of a snapshot that was just made."""
        return self._mounts.pop(number)


def inherited(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that are passed on to a foreign snapshotter."""
    return {key: value for key, value in labels.items() if key == SNAPSHOT_REF or key.startswith(INHERITED)}


def _name_of(namespace: str, record: Snapshot) -> str:
    info = record.info
    is_adopted = info.kind == Kind.COMMITTED and record.usage is None
    return info.name if is_adopted else f"{namespace}/{record.number}/{info.name}"
