"""Containers' records of one namespace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from portside.core.containers import Container
from portside.core.filters import container_fields
from portside.core.labels import check_identifier, check_labels, merge_labels
from portside.errors import AlreadyExists, InvalidArgument, NotFound
from portside.metadata.common import matching
from portside.metadata.database import Database, Transaction
from portside.metadata.schema import CONTAINERS

_REPLACED = ("labels", "spec", "extensions", "image", "snapshotkey")
_UPDATES: dict[str, Callable[[Container], dict[str, Any]]] = {
    "labels": lambda new: {"labels": merge_labels({}, new.labels, ())},
    "spec": lambda new: {"spec": new.spec},
    "extensions": lambda new: {"extensions": dict(new.extensions)},
    "image": lambda new: {"image": new.image},
    "snapshotkey": lambda new: {"snapshot_key": new.snapshot_key},
}
_UPDATES["snapshot_key"] = _UPDATES["snapshotkey"]


class Containers:
    """``core.containers.ContainerStore`` on the database."""

    def __init__(self, db: Database, namespace: str) -> None:
        self._db, self._namespace = db, namespace
        self._scope = (namespace,)

    async def get(self, id: str) -> Container:
        """From memory, without suspending; NotFound."""
        container = self._db.state.get(CONTAINERS, self._scope, id)
        if container is None:
            raise self._missing(id)
        return container

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Those that match any filter, by id."""
        records = self._db.state.rows(CONTAINERS, self._scope)
        return matching([records[id] for id in sorted(records)], filters, container_fields)

    async def create(self, container: Container) -> Container:
        """AlreadyExists; InvalidArgument for an id or a label that is not allowed, or without runtime or spec."""
        _check(container)
        labels = merge_labels({}, container.labels, ())

        def change(tx: Transaction) -> Container:
            if tx.get(CONTAINERS, self._scope, container.id) is not None:
                raise AlreadyExists(f"container {container.id!r}: already exists")
            created = replace(container, labels=labels, created_ns=tx.now_ns, updated_ns=tx.now_ns)
            tx.put(CONTAINERS, self._scope, container.id, created)
            runtime = {"name": container.runtime, "options": container.runtime_options}
            fields = {"id": container.id, "image": container.image, "runtime": runtime}
            tx.emit(self._namespace, "/containers/create", "containerd.events.ContainerCreate", fields)
            return created

        return await self._db.write(change)

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """Change what ``fieldpaths`` name, all that may change without one; NotFound; InvalidArgument for the rest."""
        if not container.id:
            raise InvalidArgument("update container: which one is not said")

        def change(tx: Transaction) -> Container:
            old = tx.get(CONTAINERS, self._scope, container.id)
            if old is None:
                raise self._missing(container.id)
            updated = replace(_merged(old, container, fieldpaths), updated_ns=tx.now_ns)
            _check(updated)
            tx.put(CONTAINERS, self._scope, updated.id, updated)
            fields = {
                "id": updated.id,
                "image": updated.image,
                "labels": updated.labels,
                "snapshot_key": updated.snapshot_key,
            }
            tx.emit(self._namespace, "/containers/update", "containerd.events.ContainerUpdate", fields)
            return updated

        return await self._db.write(change)

    async def delete(self, id: str) -> None:
        """NotFound."""

        def change(tx: Transaction) -> None:
            if tx.get(CONTAINERS, self._scope, id) is None:
                raise self._missing(id)
            tx.delete(CONTAINERS, self._scope, id)
            tx.emit(self._namespace, "/containers/delete", "containerd.events.ContainerDelete", {"id": id})

        await self._db.write(change)

    def _missing(self, id: str) -> NotFound:
        return NotFound(f"container {id!r} in namespace {self._namespace!r}: not found")


def _merged(old: Container, new: Container, fieldpaths: Sequence[str]) -> Container:
    if not fieldpaths:
        for name in ("runtime", "snapshotter"):
            if getattr(old, name) != getattr(new, name):
                raise InvalidArgument(f"update container {old.id!r}: its {name} cannot be changed")
    merged = old
    for path in fieldpaths or _REPLACED:
        head, dot, key = path.partition(".")
        if dot and head == "labels":
            merged = replace(merged, labels=merge_labels(merged.labels, new.labels, (path,)))
        elif dot and key and head == "extensions":
            rest = {name: value for name, value in merged.extensions.items() if name != key}
            kept = {key: new.extensions[key]} if key in new.extensions else {}
            merged = replace(merged, extensions={**rest, **kept})
        elif path in _UPDATES:
            merged = replace(merged, **_UPDATES[path](new))
        else:
            raise InvalidArgument(f"update container {old.id!r}: the field {path!r} cannot be changed")
    return merged


def _check(container: Container) -> None:
    """The rules for a record as a whole (containerd: core/metadata/containers.go)."""
    check_identifier(container.id, "container")
    check_labels(container.labels)
    if "" in container.extensions:
        raise InvalidArgument(f"container {container.id!r}: an extension needs a key")
    if not container.runtime:
        raise InvalidArgument(f"container {container.id!r}: it needs the name of a runtime")
    if container.spec is None:
        raise InvalidArgument(f"container {container.id!r}: it needs a spec")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgument(f"container {container.id!r}: with a snapshot key it needs a snapshotter")
