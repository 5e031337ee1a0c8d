"""Records that only the metadata has; those that clients see are the domain objects of ``core/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from portside.core.mounts import Activation
from portside.core.snapshots import SnapshotInfo, Usage
from portside.oci.digest import Digest

Scope: TypeAlias = tuple[str, ...]
"""What a name is unique in: ``(namespace,)``, ``(namespace, snapshotter)``, ``(namespace, lease)`` or ``()``."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """A namespace's name for an ingest of the blob store."""

    ref: str
    key: str
    """Its name in the blob store, ``<namespace>/<number>/<ref>``, so that equal refs of two namespaces do not meet."""
    expected: Digest | None
    """What the writer said it will be."""
    shared_size: int
    """Not 0: nothing is written, the blob ``expected`` of this size is there already through another namespace."""
    expires_ns: int
    """When it may be collected; 0 if a lease holds it."""
    started_ns: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot's record and the number its driver knows it by."""

    info: SnapshotInfo
    number: int
    usage: Usage | None = None
    """Counted at commit; None before."""


@dataclass(frozen=True, slots=True)
class Activated:
    """Activated mounts, and the number of the directory in which they were made."""

    info: Activation
    number: int
    lease: str
    """Which lease they were made under; empty for none."""
    created_ns: int
    updated_ns: int

    @property
    def labels(self) -> Mapping[str, str]:
        """The activation's."""
        return self.info.labels
