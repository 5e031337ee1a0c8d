"""All records in memory, and changes to them. Knows nothing of SQLite, threads or what the records mean.

Two of these exist: the one that readers see, and the writer's own, which is ahead by what is not yet committed.
Records are immutable and shared by both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from portside.metadata.records import Scope
from portside.metadata.schema import SNAPSHOTS, Table

R = TypeVar("R")

_EMPTY: Mapping[str, Any] = {}


class Change(NamedTuple):
    """A record put, or removed where ``record`` is None."""

    table: Table[Any]
    scope: Scope
    key: str
    record: Any


class Effect(NamedTuple):
    """A change as readers saw it happen: what was there before, and what is now (None: nothing)."""

    table: Table[Any]
    scope: Scope
    key: str
    old: Any
    new: Any


class State:
    """Records by table, scope and key."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Table[Any], Scope], dict[str, Any]] = {}
        self._children: dict[tuple[Scope, str], int] = {}

    def rows(self, table: Table[R], scope: Scope) -> Mapping[str, R]:
        """All records of a scope by key. It may change or be replaced with the next change: do not keep it."""
        return self._rows.get((table, scope), _EMPTY)

    def get(self, table: Table[R], scope: Scope, key: str) -> R | None:
        """One record."""
        record: R | None = self._rows.get((table, scope), _EMPTY).get(key)
        return record

    def scopes(self, table: Table[Any]) -> Iterable[Scope]:
        """The scopes of ``table`` that have a record."""
        return [scope for owner, scope in self._rows if owner is table]

    def children(self, scope: Scope, key: str) -> int:
        """How many snapshots stand on the snapshot ``key``."""
        return self._children.get((scope, key), 0)

    def apply(self, change: Change) -> Change:
        """Make a change; the change that undoes it."""
        table, scope, key, record = change
        rows = self._rows.get((table, scope))
        if rows is None:
            rows = self._rows[table, scope] = {}
        old = rows.get(key)
        if record is not None:
            rows[key] = record
        elif old is not None:
            del rows[key]
        if not rows:
            del self._rows[table, scope]
        if table is SNAPSHOTS:
            self._count(scope, old, -1)
            self._count(scope, record, 1)
        return Change(table, scope, key, old)

    def _count(self, scope: Scope, snapshot: Any, step: int) -> None:
        if snapshot is None or not snapshot.info.parent:
            return
        name = (scope, snapshot.info.parent)
        count = self._children.get(name, 0) + step
        if count:
            self._children[name] = count
        else:
            self._children.pop(name, None)
