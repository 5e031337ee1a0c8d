"""The mark phase of a collection: which records are reachable (what holds what is in ``references``).

All of it runs in the database's writer in slices of a few milliseconds between other writes. What is written
meanwhile is told by the write barrier (``note``): a record that is put is marked and what it holds is followed again,
so that nothing new and nothing newly referred to is taken for garbage; a reference that goes leaves garbage for the
next time.
"""

from __future__ import annotations

import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from portside.core import labels as known
from portside.core.leases import Resource
from portside.metadata.records import Scope, Snapshot
from portside.metadata.references import (
    KIND,
    KINDS,
    Kept,
    Node,
    expiry,
    held_by_record,
    held_on_condition,
    holders_of_record,
    labels_of,
    resource_node,
)
from portside.metadata.schema import CONTENT, IMAGES, LEASES, RESOURCES, SNAPSHOTS, Table
from portside.metadata.state import Change, State

_STEPS = 32
"""Records looked at between two looks at the clock."""
_AGAIN_NS = 3600 * 1_000_000_000
"""When to look again at an ingest that is open beyond its time."""


class NodeList:
    """Many nodes without an object for each: Python's own collector would look at them all, and it stops everybody."""

    def __init__(self) -> None:
        self._places: list[tuple[Table[Any], Scope]] = []
        self._numbers: dict[tuple[Table[Any], Scope], int] = {}
        self._where = array("L")
        self._keys: list[str] = []

    def append(self, node: Node) -> None:
        """Add one at the end."""
        place = node[:2]
        number = self._numbers.get(place)
        if number is None:
            number = self._numbers[place] = len(self._places)
            self._places.append(place)
        self._where.append(number)
        self._keys.append(node[2])

    def pop(self) -> Node:
        """Take the last."""
        return (*self._places[self._where.pop()], self._keys.pop())

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Node]:
        """From the first on; what is appended meanwhile comes, too."""
        at = 0
        while at < len(self._keys):
            yield (*self._places[self._where[at]], self._keys[at])
            at += 1


class Marking:
    """One mark phase. All methods run in the writer thread.

    ``is_open(namespace, ref)`` tells whether an ingest is being written. With ``spare_ns`` content, snapshots and
    mounts made less than that long ago are spared though nothing holds them.
    """

    def __init__(self, state: State, now_ns: int, is_open: Callable[[str, str], bool], spare_ns: int = 0) -> None:
        self._state, self._now_ns, self._is_open, self._spare_ns = state, now_ns, is_open, spare_ns
        # Keys by table and scope, not nodes: Python's own collector need not look at texts, and it stops everybody.
        self._marked: defaultdict[tuple[Table[Any], Scope], set[str]] = defaultdict(set)
        self._flat: set[Node] = set()
        self._grey: list[Node] = []
        self._leases: list[tuple[Scope, bool, Iterator[str]]] = []  # marked, with the resources that are to be followed
        self._young = NodeList()
        self._held_back: dict[Node, list[Node]] = {}
        self._work = self._run()
        self.next_expiry_ns = 0
        """When something that was kept may become garbage by the clock alone; 0: never."""

    def advance(self, deadline: float) -> bool:
        """Go on until done (True) or until ``deadline`` (time.perf_counter)."""
        return advance(self._work, deadline) and self._drained(deadline)

    def is_kept(self, node: Node) -> bool:
        """Whether it was reached so far, or a flat lease holds it."""
        return node[2] in self._marked[node[:2]] or node in self._flat

    def garbage(self, found: NodeList) -> Iterator[None]:
        """Put all that is not kept into ``found``, holders after what they hold; in steps, after ``advance`` is done.

        So the last ones can be removed first, and nobody meets a manifest whose layers have gone.
        """
        pending: defaultdict[tuple[Table[Any], Scope], dict[str, int]] = defaultdict(dict)
        for node in self._nodes(kind.table for kind in KINDS if kind.kept is not Kept.ALWAYS):
            if not self.is_kept(node):
                pending[node[:2]][node[2]] = 0
            yield
        for place, keys in pending.items():
            for key in keys:
                for target in self._held((*place, key)):
                    if target[2] in pending.get(target[:2], ()):
                        pending[target[:2]][target[2]] += 1
                yield
        order = NodeList()
        for place, keys in pending.items():
            for key in [key for key, holders in keys.items() if not holders]:
                order.append((*place, key))
        for node in order:
            pending[node[:2]].pop(node[2], None)
            for target in self._held(node):
                if target[2] in pending.get(target[:2], ()):
                    pending[target[:2]][target[2]] -= 1
                    if not pending[target[:2]][target[2]]:
                        order.append(target)
            yield
        for place, keys in pending.items():  # circles
            for key in keys:
                found.append((*place, key))
                yield
        while order:
            found.append(order.pop())
            yield

    def note(self, changes: Sequence[Change]) -> None:
        """The write barrier."""
        for table, scope, key, record in changes:
            if record is None:
                continue
            if table is RESOURCES:
                self._hold(scope, record, flat=self._is_flat(scope))
            elif table in KIND:
                self._marked[table, scope].add(key)
                self._grey.append((table, scope, key))

    def _run(self) -> Iterator[None]:
        for node in self._nodes(kind.table for kind in KINDS):
            record = self._state.get(*node)
            if record is not None:
                self._consider(node, record)
            yield
            while self._step():
                yield
        for node in self._young:
            record = self._state.get(*node)
            if record is not None and not self.is_kept(node):
                self._mark(node)
                self._expires(_made_ns(record) + self._spare_ns)
            yield

    def _nodes(self, tables: Iterator[Table[Any]]) -> Iterator[Node]:
        """All nodes of ``tables``; keys are copied (a fast copy), as the rows may change between two slices."""
        for table in tables:
            for scope in list(self._state.scopes(table)):
                for key in list(self._state.rows(table, scope)):
                    yield table, scope, key

    def _consider(self, node: Node, record: Any) -> None:
        """Root or not; and who is held by whom with a back reference."""
        if self._is_root(node, record):
            self._mark(node)
        elif KIND[node[0]].kept is Kept.BY_LABEL and 0 <= self._now_ns - _made_ns(record) < self._spare_ns:
            self._young.append(node)  # one from the future was made before the clock was set back
        for holder in holders_of_record(node, record):
            self._held_back.setdefault(holder, []).append(node)
            if holder[2] in self._marked[holder[:2]]:
                self._mark(node)

    def _is_root(self, node: Node, record: Any) -> bool:
        kept = KIND[node[0]].kept
        if kept is Kept.ALWAYS:
            return True
        if kept is Kept.BY_COLUMNS:
            return self._is_live_ingest(node, record)
        labels = labels_of(record)
        end = expiry(labels) if labels else None
        if end is not None and end > self._now_ns:
            self._expires(end)
            return True
        return (end is None and kept is Kept.UNLESS_EXPIRED) or known.GC_ROOT in labels

    def _is_live_ingest(self, node: Node, record: Any) -> bool:
        if record.expires_ns > self._now_ns:
            self._expires(record.expires_ns)
            return True
        if self._is_open(node[1][0], node[2]):
            self._expires(self._now_ns + _AGAIN_NS)
            return True
        return False

    def _expires(self, end_ns: int) -> None:
        if end_ns > self._now_ns and (not self.next_expiry_ns or end_ns < self.next_expiry_ns):
            self.next_expiry_ns = end_ns

    def _mark(self, node: Node) -> None:
        keys = self._marked[node[:2]]
        if node[2] not in keys:
            keys.add(node[2])
            self._grey.append(node)

    def _drained(self, deadline: float) -> bool:
        """Follow what is marked until nothing is left (True) or until ``deadline``."""
        count = 0
        while self._step():
            count += 1
            if count % _STEPS == 0 and time.perf_counter() >= deadline:
                return False
        return True

    def _step(self) -> bool:
        """Follow one marked record, or one resource of a marked lease; False if there is none."""
        if self._grey:
            self._follow(self._grey.pop())
            return True
        if not self._leases:
            return False
        lease, flat, keys = self._leases[-1]
        key = next(keys, None)
        if key is None:
            self._leases.pop()
        elif (resource := self._state.get(RESOURCES, lease, key)) is not None:
            self._hold(lease, resource, flat)
        return True

    def _follow(self, node: Node) -> None:
        for bearer in self._held_back.get(node, ()):
            self._mark(bearer)
        record = self._state.get(*node)
        if record is None:
            return
        if node[0] is LEASES:
            lease = (*node[1], node[2])
            self._leases.append((lease, self._is_flat(lease), iter(list(self._state.rows(RESOURCES, lease)))))
            return
        for target in held_by_record(node, record):
            self._mark(target)
        for target, end_ns in held_on_condition(node, record, self._state, self._now_ns):
            self._mark(target)
            self._expires(end_ns)

    def _hold(self, scope: Scope, resource: Resource, flat: bool) -> None:
        """A lease's resource. A flat lease follows only what makes it whole: parents of a snapshot, an image's target;
        an ingest is held as by any lease."""
        node = resource_node(scope[0], resource)
        if node is None:
            return
        if not flat or node[0] not in (CONTENT, SNAPSHOTS, IMAGES):
            self._mark(node)
            return
        part: Node | None = node
        while part is not None:
            self._flat.add(part)
            record = self._state.get(*part)
            part = next(KIND[part[0]].holds(part, record), None) if record is not None else None

    def _held(self, node: Node) -> Iterator[Node]:
        record = self._state.get(*node)
        return held_by_record(node, record) if record is not None else iter(())

    def _is_flat(self, scope: Scope) -> bool:
        lease = self._state.get(LEASES, scope[:1], scope[1])
        return lease is not None and known.GC_FLAT in lease.labels


def advance(work: Iterator[None], deadline: float) -> bool:
    """Run ``work`` to its end (True) or until ``deadline`` (time.perf_counter)."""
    return not any(count % _STEPS == _STEPS - 1 and time.perf_counter() >= deadline for count, _ in enumerate(work))


def _made_ns(record: Any) -> int:
    made: int = record.info.created_ns if isinstance(record, Snapshot) else record.created_ns
    return made
