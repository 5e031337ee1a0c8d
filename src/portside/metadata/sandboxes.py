"""Sandboxes' records of one namespace. What runs is a controller's to tell: nothing here emits an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from portside.core.filters import sandbox_fields
from portside.core.labels import check_identifier, check_labels, merge_labels
from portside.core.sandboxes import Sandbox
from portside.errors import AlreadyExists, InvalidArgument, NotFound
from portside.metadata.common import matching, new_labels
from portside.metadata.database import Database, Transaction
from portside.metadata.schema import SANDBOXES

_ALL = ("labels", "extensions", "spec", "runtime")


class Sandboxes:
    """``core.sandboxes.SandboxStore`` on the database."""

    def __init__(self, db: Database, namespace: str) -> None:
        self._db, self._namespace = db, namespace
        self._scope = (namespace,)

    async def get(self, id: str) -> Sandbox:
        """From memory, without suspending; NotFound."""
        sandbox = self._db.state.get(SANDBOXES, self._scope, id)
        if sandbox is None:
            raise self._missing(id)
        return sandbox

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Sandbox]:
        """Those that match any filter, by id."""
        records = self._db.state.rows(SANDBOXES, self._scope)
        return matching([records[id] for id in sorted(records)], filters, sandbox_fields)

    async def create(self, sandbox: Sandbox) -> Sandbox:
        """AlreadyExists; InvalidArgument for an id, a label or an extension that is not allowed."""
        _check(sandbox)
        labels = new_labels(sandbox.labels)

        def change(tx: Transaction) -> Sandbox:
            if tx.get(SANDBOXES, self._scope, sandbox.id) is not None:
                raise AlreadyExists(f"sandbox {sandbox.id!r}: already exists")
            created = replace(sandbox, labels=labels, created_ns=tx.now_ns, updated_ns=tx.now_ns)
            tx.put(SANDBOXES, self._scope, sandbox.id, created)
            return created

        return await self._db.write(change)

    async def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        """Change what ``fieldpaths`` name, all that may change without one; NotFound; InvalidArgument for the rest."""

        def change(tx: Transaction) -> Sandbox:
            old = tx.get(SANDBOXES, self._scope, sandbox.id)
            if old is None:
                raise self._missing(sandbox.id)
            updated = replace(_merged(old, sandbox, fieldpaths), updated_ns=tx.now_ns)
            _check(updated)
            tx.put(SANDBOXES, self._scope, updated.id, updated)
            return updated

        return await self._db.write(change)

    async def delete(self, id: str) -> None:
        """NotFound."""

        def change(tx: Transaction) -> None:
            if tx.get(SANDBOXES, self._scope, id) is None:
                raise self._missing(id)
            tx.delete(SANDBOXES, self._scope, id)

        await self._db.write(change)

    def _missing(self, id: str) -> NotFound:
        return NotFound(f"sandbox {id!r} in namespace {self._namespace!r}: not found")


def _merged(old: Sandbox, new: Sandbox, fieldpaths: Sequence[str]) -> Sandbox:
    if not fieldpaths and old.runtime != new.runtime:
        raise InvalidArgument(f"update sandbox {old.id!r}: the name of its runtime cannot be changed")
    merged = old
    for path in fieldpaths or _ALL:
        head, dot, key = path.partition(".")
        if head == "labels":
            merged = replace(merged, labels=merge_labels(merged.labels, new.labels, (path,)))
        elif dot and head == "extensions":
            rest = {name: value for name, value in merged.extensions.items() if name != key}
            kept = {key: new.extensions[key]} if key in new.extensions else {}
            merged = replace(merged, extensions={**rest, **kept})
        elif path == "extensions":
            merged = replace(merged, extensions=dict(new.extensions))
        elif path == "spec":
            merged = replace(merged, spec=new.spec)
        elif path == "runtime":
            merged = replace(merged, runtime=new.runtime, runtime_options=new.runtime_options)
        else:
            raise InvalidArgument(f"update sandbox {old.id!r}: the field {path!r} cannot be changed")
    return merged


def _check(sandbox: Sandbox) -> None:
    check_identifier(sandbox.id, "sandbox")
    check_labels(sandbox.labels)
    if "" in sandbox.extensions:
        raise InvalidArgument(f"sandbox {sandbox.id!r}: an extension needs a key")
