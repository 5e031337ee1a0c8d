"""Garbage collection: marks what is reachable and removes the records of the rest.

Nodes are records that can be garbage (images, content, snapshots, leases, ingests, activated mounts) or that hold
others (containers, sandboxes).

    roots        containers; sandboxes; images and leases that have not expired; content, snapshots and mounts with
                 gc.root, or with a gc.expire to come; ingests that are open or have not expired
    references   image -> target; container, sandbox, image, content, snapshot -> gc.ref.content…,
                 gc.ref.snapshot.<name>, gc.ref.image…, gc.ref.mount…; snapshot -> parent; ingest -> the blob it
                 shares; lease -> its resources (with gc.flat those alone, without what they refer to); and by
                 gc.bref.… from what a label names to its bearer

All marking runs in the database's writer in slices of a few milliseconds between other writes. What is written
meanwhile is told by the write barrier: a record that is put is marked and its references are followed again, so that
nothing new and nothing newly referred to is taken for garbage; a reference that goes leaves garbage for next time.
Garbage is removed in small groups, referrers before what they refer to, so that a reader never meets a manifest whose
layers have gone. Source of the rules: containerd docs/garbage-collection.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

from portside.core import labels as known
from portside.core.leases import Resource
from portside.metadata.background import Background
from portside.metadata.database import Database, Transaction
from portside.metadata.leases import remove_lease
from portside.metadata.records import Scope
from portside.metadata.schema import (
    CONTAINERS,
    CONTENT,
    IMAGES,
    INGESTS,
    LEASES,
    MOUNTS,
    RESOURCES,
    SANDBOXES,
    SNAPSHOTS,
    Table,
)
from portside.metadata.snapshots import remove_snapshot
from portside.metadata.state import Change, State

log = logging.getLogger(__name__)

Node: TypeAlias = tuple[Table[Any], Scope, str]
"""A record by table, scope and key."""

SLICE = 0.002
"""Seconds the writer is held at a time."""
BATCH = 64
"""Records removed in one transaction."""

_REMOVABLE: tuple[Table[Any], ...] = (LEASES, MOUNTS, IMAGES, INGESTS, CONTENT, SNAPSHOTS)
_HOLDERS: tuple[Table[Any], ...] = (CONTAINERS, SANDBOXES)
_NODES: tuple[Table[Any], ...] = (*_REMOVABLE, *_HOLDERS)
_BREF = "containerd.io/gc.bref."


@dataclass(slots=True)
class Report:
    """What a collection removed: records by table name, snapshot numbers by snapshotter; and how long it took."""

    removed: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    mounts: list[int] = field(default_factory=list)
    """Numbers of activated mounts whose records were removed."""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
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


def expiry(labels: Mapping[str, str]) -> int | None:
    """``gc.expire`` in nanoseconds; None without one. What is no RFC 3339 time is taken as never, and logged."""
    text = labels.get(known.GC_EXPIRE)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(_to_microseconds(text))
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return int(moment.timestamp() * 1000) * 1_000_000
    except (ValueError, OverflowError):
        log.warning("label %s=%r is not a time; taken as never", known.GC_EXPIRE, text[:60])
        return None


def _to_microseconds(text: str) -> str:
    """Go writes up to nine decimals, Python reads six."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[: min(digits, 6)].ljust(6, '0')}{rest[digits:]}" if dot else text


class Marking:
    """One mark phase. All methods run in the writer thread."""

    def __init__(self, state: State, now_ns: int, is_open: Callable[[str, str], bool]) -> None:
        self._state, self._now_ns, self._is_open = state, now_ns, is_open
        # Keys by table and scope, not nodes: Python's own collector need not look at texts, and it stops everybody.
        self._marked: defaultdict[tuple[Table[Any], Scope], set[str]] = defaultdict(set)
        self._flat: set[Node] = set()
        self._grey: list[Node] = []
        self._bearers: dict[Node, list[Node]] = {}
        self._work = self._run()
        self.next_expiry_ns = 0

    def advance(self, deadline: float) -> bool:
        """Go on until done (True) or until ``deadline`` (time.perf_counter)."""
        for count, _ in enumerate(self._work):
            if count % 32 == 31 and time.perf_counter() >= deadline:
                return False
        return self._drain(deadline)

    def is_kept(self, node: Node) -> bool:
        """Whether it was reached so far, or a flat lease holds it."""
        return node[2] in self._marked[node[:2]] or node in self._flat

    def garbage(self, found: list[Node]) -> Iterator[None]:
        """Put all that is not kept into ``found``, referrers first; in steps, after ``advance`` is done."""
        pending: dict[Node, int] = {}
        for table in _REMOVABLE:
            for scope in list(self._state.scopes(table)):
                for key in list(self._state.rows(table, scope)):
                    if not self.is_kept((table, scope, key)):
                        pending[table, scope, key] = 0
                    yield
        for node in pending:
            for target in self._references(node):
                if target in pending:
                    pending[target] += 1
            yield
        ready = deque(node for node, referrers in pending.items() if not referrers)
        while ready:
            node = ready.popleft()
            del pending[node]
            found.append(node)
            for target in self._references(node):
                if target in pending:
                    pending[target] -= 1
                    if not pending[target]:
                        ready.append(target)
            yield
        found.extend(pending)  # circles

    def note(self, changes: Sequence[Change]) -> None:
        """The write barrier."""
        for table, scope, key, record in changes:
            if record is None:
                continue
            if table is RESOURCES:
                self._hold(scope, record, flat=self._is_flat(scope))
            elif table in _HOLDERS or table in _REMOVABLE:
                self._marked[table, scope].add(key)
                self._grey.append((table, scope, key))

    def _run(self) -> Iterator[None]:
        for table in _NODES:
            for scope in list(self._state.scopes(table)):
                for key, record in list(self._state.rows(table, scope).items()):
                    self._consider((table, scope, key), record)
                    yield

    def _consider(self, node: Node, record: Any) -> None:
        """Root or not; and who is held up by a back reference."""
        table, scope, key = node
        if table in _HOLDERS:
            self._mark(node)
            return
        if table is INGESTS:
            if record.expires_ns:
                self._expires(record.expires_ns)
            if record.expires_ns > self._now_ns or self._is_open(scope[0], key):
                self._mark(node)
            return
        labels = record.info.labels if table is SNAPSHOTS else record.labels
        end = expiry(labels) if labels else None
        alive = end is not None and end > self._now_ns
        if alive and end is not None:
            self._expires(end)
        if alive or (end is None and table in (IMAGES, LEASES)) or known.GC_ROOT in labels:
            self._mark(node)
        for label, value in labels.items():
            if label.startswith(_BREF):
                for target in _referred(label.replace("gc.bref.", "gc.ref.", 1), value, scope[0]):
                    self._bearers.setdefault(target, []).append(node)
                    if target[2] in self._marked[target[:2]]:
                        self._mark(node)

    def _expires(self, end_ns: int) -> None:
        if end_ns > self._now_ns and (not self.next_expiry_ns or end_ns < self.next_expiry_ns):
            self.next_expiry_ns = end_ns

    def _mark(self, node: Node) -> None:
        keys = self._marked[node[:2]]
        if node[2] not in keys:
            keys.add(node[2])
            self._grey.append(node)

    def _drain(self, deadline: float) -> bool:
        count = 0
        while self._grey:
            self._follow(self._grey.pop())
            count += 1
            if count % 32 == 0 and time.perf_counter() >= deadline:
                return False
        return True

    def _follow(self, node: Node) -> None:
        table, scope, key = node
        for bearer in self._bearers.get(node, ()):
            self._mark(bearer)
        record = self._state.get(table, scope, key)
        if record is None:
            return
        if table is LEASES:
            flat = self._is_flat((*scope, key))
            for resource in self._state.rows(RESOURCES, (*scope, key)).values():
                self._hold((*scope, key), resource, flat)
        else:
            for target in references(node, record):
                self._mark(target)

    def _hold(self, scope: Scope, resource: Resource, flat: bool) -> None:
        """A lease's resource; in a flat lease it is marked without being followed, but for a snapshot's parents."""
        kind, _, snapshotter = resource.type.partition("/")
        namespace = scope[0]
        if kind == "snapshots":
            node: Node = (SNAPSHOTS, (namespace, snapshotter), resource.id)
        else:
            tables: dict[str, Table[Any]] = {
                "content": CONTENT, "ingests": INGESTS, "images": IMAGES, "mounts": MOUNTS,
            }  # fmt: skip
            if kind not in tables:
                return
            node = (tables[kind], (namespace,), resource.id)
        if not flat:
            self._mark(node)
        while flat and node[2]:
            self._flat.add(node)
            snapshot = self._state.get(*node) if kind == "snapshots" else None
            node = (*node[:2], snapshot.info.parent if snapshot is not None else "")

    def _references(self, node: Node) -> Iterator[Node]:
        record = self._state.get(*node)
        return references(node, record) if record is not None and node[0] is not LEASES else iter(())

    def _is_flat(self, scope: Scope) -> bool:
        lease = self._state.get(LEASES, scope[:1], scope[1])
        return lease is not None and known.GC_FLAT in lease.labels


class Collector:
    """Collections, one at a time. ``free`` deletes the bytes of what a report lists; it returns what it could not."""

    def __init__(
        self, db: Database, background: Background, is_open: Callable[[str, str], bool],
        free: Callable[[Report], Awaitable[list[str]]],
    ) -> None:  # fmt: skip
        self._db, self._background, self._is_open, self._free = db, background, is_open, free
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[Report] | None = None

    async def collect(self) -> Report:
        """A whole collection that begins after this call; callers that come while one waits share it."""
        if self._waiting is None:
            self._waiting = self._background.start(self._collect_in_turn())
        return await asyncio.shield(self._waiting)

    async def _collect_in_turn(self) -> Report:
        async with self._turn:
            self._waiting = None
            return await self._collect()

    async def _collect(self) -> Report:
        started = time.monotonic()
        report = Report()
        marking = await self._db.write(self._begin)
        try:
            while not await self._db.write(lambda tx: marking.advance(time.perf_counter() + SLICE)):
                pass
            garbage: list[Node] = []
            finding = marking.garbage(garbage)
            while not await self._db.write(lambda tx: _advance(finding, time.perf_counter() + SLICE)):
                pass
            while garbage:
                batch = garbage[:BATCH]
                gone = await self._db.write(partial(_remove, marking=marking, batch=batch))
                if gone is not None:
                    report.add(gone)
                    del garbage[:BATCH]
        finally:
            self._db.barrier = None
        report.next_expiry_ns = marking.next_expiry_ns
        report.failures = await self._free(report)
        report.seconds = time.monotonic() - started
        return report

    def _begin(self, tx: Transaction) -> Marking:
        marking = Marking(tx.state, tx.now_ns, self._is_open)
        self._db.barrier = marking.note
        return marking


def _advance(work: Iterator[None], deadline: float) -> bool:
    """Run ``work`` to its end (True) or until ``deadline``."""
    return not any(count % 32 == 31 and time.perf_counter() >= deadline for count, _ in enumerate(work))


def _remove(tx: Transaction, marking: Marking, batch: Sequence[Node]) -> list[tuple[Node, Any]] | None:
    """Remove the records of ``batch`` that are still garbage, and return them; None if marking must go on first."""
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


def references(node: Node, record: Any) -> Iterator[Node]:
    """What a record refers to."""
    table, scope, _ = node
    namespace = scope[0]
    if table is INGESTS:
        if record.shared_size and record.expected:
            yield CONTENT, (namespace,), record.expected
        return
    labels = record.info.labels if table is SNAPSHOTS else record.labels
    if table is IMAGES:
        yield CONTENT, (namespace,), record.target.digest
    elif table is CONTAINERS:
        if record.snapshotter and record.snapshot_key:
            yield SNAPSHOTS, (namespace, record.snapshotter), record.snapshot_key
    elif table is SNAPSHOTS and record.info.parent:
        yield SNAPSHOTS, scope, record.info.parent
    for label, value in labels.items():
        if label.startswith("containerd.io/gc.ref."):
            yield from _referred(label, value, namespace)


def _referred(label: str, value: str, namespace: str) -> Iterator[Node]:
    """What a ``gc.ref.`` label names: ``.content``, ``.image``, ``.container`` and ``.mount`` may have a ``.name`` or
    ``/name`` after them, ``.snapshot.<snapshotter>`` a ``/name``."""
    if label.startswith(known.GC_REF_SNAPSHOT):
        yield SNAPSHOTS, (namespace, label.removeprefix(known.GC_REF_SNAPSHOT).partition("/")[0]), value
        return
    kinds: tuple[tuple[str, Table[Any]], ...] = (
        (known.GC_REF_CONTENT, CONTENT),
        (known.GC_REF_IMAGE, IMAGES),
        ("containerd.io/gc.ref.container", CONTAINERS),
        ("containerd.io/gc.ref.mount", MOUNTS),
    )
    for prefix, table in kinds:
        if label == prefix or label.startswith((prefix + ".", prefix + "/")):
            yield table, (namespace,), value
