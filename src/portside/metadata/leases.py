"""Leases of one namespace, and what they hold."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from secrets import token_urlsafe

from portside.core.filters import lease_fields
from portside.core.leases import Lease, Resource
from portside.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from portside.metadata.common import hold, let_go, matching, new_labels
from portside.metadata.database import Database, Transaction
from portside.metadata.schema import LEASES, RESOURCES
from portside.oci.digest import Digest

MAX_ID = 4096
"""Characters in a lease's id. Not an identifier: clients make ids such as ``423-a_-B`` that would not pass as one."""


class Leases:
    """``core.leases.LeaseManager`` on the database; ``collect`` runs a whole garbage collection."""

    def __init__(self, db: Database, namespace: str, collect: Callable[[], Awaitable[object]]) -> None:
        self._db, self._namespace, self._collect = db, namespace, collect
        self._scope = (namespace,)

    async def create(self, id: str, labels: Mapping[str, str] | None = None) -> Lease:
        """AlreadyExists; InvalidArgument for an id or a label that is not allowed. Without an id it is given one."""
        id = id or f"{time.time_ns() % 1_000_000_000}-{token_urlsafe(6)}"
        if len(id) > MAX_ID or "\0" in id:
            raise InvalidArgument(f"lease {id[:100]!r}: want an id of at most {MAX_ID} characters")
        stored = new_labels(labels)

        def change(tx: Transaction) -> Lease:
            if tx.get(LEASES, self._scope, id) is not None:
                raise AlreadyExists(f"lease {id!r}: already exists")
            lease = Lease(id, stored, tx.now_ns)
            tx.put(LEASES, self._scope, id, lease)
            return lease

        return await self._db.write(change)

    async def delete(self, id: str, sync: bool = False) -> None:
        """NotFound; with ``sync`` a collection has run on return."""

        def change(tx: Transaction) -> None:
            self._find(tx, id)
            remove_lease(tx, self._namespace, id)

        await self._db.write(change)
        if sync:
            await self._collect()

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Those that match any filter, by id."""
        records = self._db.state.rows(LEASES, self._scope)
        return matching([records[id] for id in sorted(records)], filters, lease_fields)

    async def add_resource(self, id: str, resource: Resource) -> None:
        """NotFound for the lease; the resource may come later. Unimplemented for a type that cannot be held."""
        _check(resource)

        def change(tx: Transaction) -> None:
            hold(tx, self._namespace, id, resource)

        self._check_id(id)
        await self._db.write(change)

    async def delete_resource(self, id: str, resource: Resource) -> None:
        """NotFound for the lease; a resource that it does not hold is fine."""
        _check(resource)

        def change(tx: Transaction) -> None:
            self._find(tx, id)
            let_go(tx, self._namespace, id, resource)

        await self._db.write(change)

    async def list_resources(self, id: str) -> Sequence[Resource]:
        """What the lease holds, by type and id; NotFound."""
        if self._db.state.get(LEASES, self._scope, id) is None:
            raise self._missing(id)
        records = self._db.state.rows(RESOURCES, (self._namespace, id))
        return [records[key] for key in sorted(records)]

    def _find(self, tx: Transaction, id: str) -> Lease:
        lease = tx.get(LEASES, self._scope, id)
        if lease is None:
            raise self._missing(id)
        return lease

    def _check_id(self, id: str) -> None:
        if not id:
            raise self._missing(id)

    def _missing(self, id: str) -> NotFound:
        return NotFound(f"lease {id!r} in namespace {self._namespace!r}: not found")


def remove_lease(tx: Transaction, namespace: str, id: str) -> None:
    """Remove a lease and its holds."""
    for key in list(tx.rows(RESOURCES, (namespace, id))):
        tx.delete(RESOURCES, (namespace, id), key)
    tx.delete(LEASES, (namespace,), id)


def _check(resource: Resource) -> None:
    kind, slash, snapshotter = resource.type.partition("/")
    if kind == "snapshots":
        if not snapshotter or "/" in snapshotter:
            raise InvalidArgument(f"lease resource {resource.type[:100]!r}: want snapshots/<snapshotter>")
    elif kind in ("content", "ingests", "images", "mounts"):
        if slash:
            raise InvalidArgument(f"lease resource {resource.type[:100]!r}: want {kind} alone")
        if kind == "content":
            Digest.parse(resource.id)
    else:
        raise Unimplemented(f"lease resource {resource.type[:100]!r}: this type cannot be held")
    if not resource.id or "\0" in resource.id or "\0" in resource.type:
        raise InvalidArgument(f"lease resource {resource.type!r}: it needs an id")
