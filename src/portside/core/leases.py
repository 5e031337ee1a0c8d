"""Leases: what is being worked on and must not be collected (containerd.services.leases.v1.Leases)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """``containerd.io/gc.expire`` (RFC 3339) among the labels ends it by itself."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """``type`` is ``content``, ``ingests``, ``images``, ``mounts`` or ``snapshots/<snapshotter>``."""

    type: str
    id: str


class LeaseManager(Protocol):
    """The leases of one namespace."""

    async def create(self, id: str, labels: Mapping[str, str] | None = None) -> Lease:
        """AlreadyExists; an empty id is replaced by a random one."""
        ...

    async def delete(self, id: str, sync: bool = False) -> None:
        """NotFound; with ``sync`` a collection has run on return."""
        ...

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Those that match any filter."""
        ...

    async def add_resource(self, id: str, resource: Resource) -> None:
        """Hold ``resource`` by hand; what is made under a lease is held without this."""
        ...

    async def delete_resource(self, id: str, resource: Resource) -> None:
        """Let go of it; missing is fine."""
        ...

    async def list_resources(self, id: str) -> Sequence[Resource]:
        """What the lease holds; NotFound."""
        ...
