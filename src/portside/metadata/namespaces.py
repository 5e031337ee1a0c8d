"""Namespaces: their labels, and whether one is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portside.core.labels import check_identifier
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from portside.metadata.common import new_labels
from portside.metadata.database import Database, Transaction
from portside.metadata.leases import remove_lease
from portside.metadata.schema import (
    CONTAINERS,
    CONTENT,
    IMAGES,
    INGESTS,
    LEASES,
    MOUNTS,
    NAMESPACES,
    SANDBOXES,
    SNAPSHOTS,
    Table,
)

_FORBIDDEN = "version"
"""The name of a key in containerd's own database; no tool can have a namespace of this name."""


class Namespaces:
    """``core.namespaces.NamespaceStore`` on the database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """AlreadyExists; InvalidArgument for a name or a label that is not allowed."""
        stored = new_labels(labels)
        _check_name(name)

        def change(tx: Transaction) -> None:
            if tx.get(NAMESPACES, (), name) is not None:
                raise AlreadyExists(f"namespace {name!r}: already exists")
            tx.put(NAMESPACES, (), name, stored)
            tx.emit(name, "/namespaces/create", "containerd.events.NamespaceCreate", {"name": name, "labels": stored})

        await self._db.write(change)

    async def labels(self, name: str) -> Mapping[str, str]:
        """NotFound."""
        labels = self._db.state.get(NAMESPACES, (), name)
        if labels is None:
            raise NotFound(f"namespace {name!r}: not found")
        return labels

    async def set_label(self, name: str, key: str, value: str) -> None:
        """An empty value removes the label; the namespace comes into being, as with any first object.

        InvalidArgument for a name or a label that is not allowed.
        """
        _check_name(name)
        checked = new_labels({key: value})

        def change(tx: Transaction) -> None:
            labels = tx.get(NAMESPACES, (), name) or {}
            rest = {other: text for other, text in labels.items() if other != key}
            tx.put(NAMESPACES, (), name, {**rest, **checked})
            fields = {"name": name, "labels": {**rest, **checked}}
            tx.emit(name, "/namespaces/update", "containerd.events.NamespaceUpdate", fields)

        await self._db.write(change)

    async def list(self) -> Sequence[str]:
        """Their names, sorted."""
        return sorted(self._db.state.rows(NAMESPACES, ()))

    async def delete(self, name: str) -> None:
        """NotFound; FailedPrecondition, naming what is left. Leases and ingests do not count and go with it."""

        def change(tx: Transaction) -> None:
            if tx.get(NAMESPACES, (), name) is None:
                raise NotFound(f"namespace {name!r}: not found")
            left = _left_in(tx, name)
            if left:
                raise FailedPrecondition(f"namespace {name!r} is not empty, it still has {', '.join(left)}")
            for lease in list(tx.rows(LEASES, (name,))):
                remove_lease(tx, name, lease)
            for ref in list(tx.rows(INGESTS, (name,))):
                tx.delete(INGESTS, (name,), ref)
            tx.delete(NAMESPACES, (), name)
            tx.emit(name, "/namespaces/delete", "containerd.events.NamespaceDelete", {"name": name})

        await self._db.write(change)


def _check_name(name: str) -> None:
    if check_identifier(name, "namespace") == _FORBIDDEN:
        raise InvalidArgument(f"namespace {name!r}: the name is reserved")


def _left_in(tx: Transaction, name: str) -> list[str]:
    tables: list[tuple[Table[Any], str]] = [
        (IMAGES, "images"), (CONTENT, "blobs"), (CONTAINERS, "containers"), (SANDBOXES, "sandboxes"),
        (MOUNTS, "activated mounts"),
    ]  # fmt: skip
    left = [word for table, word in tables if tx.rows(table, (name,))]
    snapshotters = sorted(scope[1] for scope in tx.state.scopes(SNAPSHOTS) if scope[0] == name)
    return left + [f'snapshots on "{snapshotter}" snapshotter' for snapshotter in snapshotters]
