"""Snapshots: the root file systems of containers, and the layers below them.

Terms. A snapshot has a *key*. It is *active* (writable, made by prepare), a *view* (read-only) or *committed*
(immutable, a possible parent of others). Commit turns an active snapshot ``key`` into the committed ``name``.
Layers are committed under their chain ID; a container's root is an active snapshot on top of the last one.

Two interfaces: ``Snapshotter`` is what clients see (keys, labels, namespaces), kept by ``metadata/``;
``SnapshotDriver`` is what a kind of storage must be able to do (numbers and directories), kept by ``snapshots/``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

from portside.core.mount import Mount


class Kind(IntEnum):
    """Values as on the wire (containerd.services.snapshots.v1.Kind)."""

    UNKNOWN = 0
    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot's record."""

    name: str
    parent: str
    kind: Kind
    labels: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0
    updated_ns: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot itself takes, without its parents."""

    inodes: int
    size: int


class Snapshotter(Protocol):
    """One snapshotter as one namespace sees it (containerd.services.snapshots.v1.Snapshots)."""

    async def stat(self, key: str) -> SnapshotInfo:
        """NotFound."""
        ...

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        """Change labels, as in ``ContentStore.update``."""
        ...

    async def usage(self, key: str) -> Usage:
        """An active snapshot is counted now; a committed one answers from its record."""
        ...

    async def mounts(self, key: str) -> tuple[Mount, ...]:
        """How to see an active snapshot or a view; FailedPrecondition for a committed one."""
        ...

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """A writable snapshot on ``parent`` (empty: on nothing). AlreadyExists; NotFound if the parent is missing."""
        ...

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """A read-only snapshot of ``parent``."""
        ...

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """The active snapshot ``key`` becomes the committed ``name``; its files are on disk when this returns.

        With ``parent`` one that was made on nothing is put on that committed snapshot, as if it had been made there
        (a rebase): so layers can be unpacked at the same time. NotFound; InvalidArgument if it has another parent;
        Unimplemented where snapshots hold their parents' files.
        """
        ...

    async def remove(self, key: str) -> None:
        """FailedPrecondition while others stand on it."""
        ...

    def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """All snapshots of this namespace that match."""
        ...

    async def cleanup(self) -> None:
        """Free what removed snapshots still hold."""
        ...


class SnapshotDriver(Protocol):
    """A kind of storage. Synchronous: called in worker threads, for different numbers at the same time.

    A snapshot is a number that ``metadata/`` gave; parents come lowest last, as overlayfs wants them. A driver has
    no records: what a crash leaves is found by ``ids`` and removed by whoever keeps the records.
    """

    name: str
    """``overlayfs``, ``native`` …: the plugin's id."""
    rebases: bool
    """Whether one that was made on nothing may be committed on a parent: it holds its own files alone."""

    def create(self, number: int, kind: Kind, parents: Sequence[int]) -> None:
        """Make the place for it; an existing one is a leftover and is replaced."""
        ...

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> tuple[Mount, ...]:
        """How to see it. Pure, quick: also called on the event loop."""
        ...

    def commit(self, number: int, *, sync: bool) -> Usage:
        """Count it and, if ``sync``, bring it to disk (syncfs). The caller then records it as committed."""
        ...

    def usage(self, number: int) -> Usage:
        """Count it now."""
        ...

    def remove(self, number: int) -> None:
        """Take it out of sight at once (a rename); what was renamed goes with ``sweep``. Missing is fine."""
        ...

    def sweep(self) -> None:
        """Delete what ``remove`` put aside. Slow."""
        ...

    def ids(self) -> Sequence[int]:
        """The numbers that have a place on disk."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A driver that keeps a few facts beside each snapshot, from which records can be made again when they are lost."""

    def remember(self, number: int, facts: Mapping[str, Any]) -> None:
        """Replace what is kept for ``number``, values that JSON can hold; on disk with a ``commit`` that syncs."""
        ...

    def remembered(self, number: int) -> Mapping[str, Any]:
        """What is kept; empty if there is nothing that makes sense."""
        ...
