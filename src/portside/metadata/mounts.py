"""Records of activated mounts of one namespace. Who makes and unmakes them is ``engine/mounts.py``.

A record is written when everything is mounted and removed when nothing is any more, but for collections: they remove
the record first, and the number of the directory is left to whoever made it (``Metadata.release_mounts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from portside.core.filters import activation_fields
from portside.core.leases import Resource
from portside.core.mounts import Activation
from portside.errors import AlreadyExists, InvalidArgument, NotFound
from portside.metadata.common import hold, let_go, matching, new_labels, updated_labels
from portside.metadata.database import Database, Transaction
from portside.metadata.records import Activated
from portside.metadata.schema import COUNTERS, MOUNTS

MAX_NAME = 4096
"""Characters in the name of an activation."""
COUNTER = "mount"


class Mounts:
    """The records of ``namespace``; what is put is held by ``lease``, if there is one."""

    def __init__(self, db: Database, namespace: str, lease: str) -> None:
        self._db, self._namespace, self._lease = db, namespace, lease
        self._scope = (namespace,)

    @property
    def lease(self) -> str:
        """The lease's id, or empty."""
        return self._lease

    def get(self, name: str) -> Activated:
        """NotFound."""
        found = self._db.state.get(MOUNTS, self._scope, name)
        if found is None:
            raise self._missing(name)
        return found

    def check_free(self, name: str) -> None:
        """AlreadyExists; InvalidArgument for a name that is none."""
        if not name or len(name) > MAX_NAME or "\0" in name:
            raise InvalidArgument(f"mounts {name[:100]!r}: want a name of at most {MAX_NAME} characters")
        if self._db.state.get(MOUNTS, self._scope, name) is not None:
            raise AlreadyExists(f"mounts {name!r}: already exist")

    def list(self, filters: Sequence[str] = ()) -> Sequence[Activation]:
        """Those that match any filter, by name."""
        records = self._db.state.rows(MOUNTS, self._scope)
        return matching([records[name].info for name in sorted(records)], filters, activation_fields)

    async def put(self, info: Activation, number: int) -> Activation:
        """Record what was made; AlreadyExists; NotFound for the lease."""
        stored = replace(info, labels=new_labels(info.labels))

        def change(tx: Transaction) -> Activation:
            if tx.get(MOUNTS, self._scope, info.name) is not None:
                raise AlreadyExists(f"mounts {info.name!r}: already exist")
            record = Activated(stored, number, self._lease, tx.now_ns, tx.now_ns)
            tx.put(MOUNTS, self._scope, info.name, record)
            tx.put(COUNTERS, (), COUNTER, max(number, tx.get(COUNTERS, (), COUNTER) or 0))
            hold(tx, self._namespace, self._lease, _resource(info.name))
            return stored

        return await self._db.write(change)

    async def update(self, info: Activation, fieldpaths: Sequence[str]) -> Activation:
        """Change labels; NotFound; InvalidArgument for another path."""

        def change(tx: Transaction) -> Activation:
            old = tx.get(MOUNTS, self._scope, info.name)
            if old is None:
                raise self._missing(info.name)
            labels = updated_labels(old.labels, info.labels, fieldpaths, f"mounts {info.name!r}")
            updated = replace(old, info=replace(old.info, labels=labels), updated_ns=tx.now_ns)
            tx.put(MOUNTS, self._scope, info.name, updated)
            return updated.info

        return await self._db.write(change)

    async def delete(self, name: str, number: int) -> None:
        """Forget what was undone; a record of the same name with another number stays."""

        def change(tx: Transaction) -> None:
            record = tx.get(MOUNTS, self._scope, name)
            if record is not None and record.number == number:
                tx.delete(MOUNTS, self._scope, name)
                let_go(tx, self._namespace, record.lease, _resource(name))

        await self._db.write(change)

    def _missing(self, name: str) -> NotFound:
        return NotFound(f"mounts {name!r} in namespace {self._namespace!r}: not found")


def all_mounts(db: Database) -> Iterator[tuple[str, Activated]]:
    """Every record with its namespace, as of now."""
    for scope in db.state.scopes(MOUNTS):
        for record in list(db.state.rows(MOUNTS, scope).values()):
            yield scope[0], record


def last_number(db: Database) -> int:
    """The highest number of a directory ever recorded."""
    return max([db.state.get(COUNTERS, (), COUNTER) or 0, *(record.number for _, record in all_mounts(db))])


def _resource(name: str) -> Resource:
    return Resource("mounts", name)
