"""Who holds a record: the container, image or lease for whose sake it is kept, found by the collector's own graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portside.doctor.report import Owner
from portside.metadata.references import Node, held_by_record, resource_node
from portside.metadata.schema import CONTAINERS, CONTENT, IMAGES, LEASES, RESOURCES, SANDBOXES, SNAPSHOTS, Table
from portside.metadata.state import State
from portside.oci.digest import Digest

_RANKS: tuple[tuple[Table[Any], str], ...] = (
    (IMAGES, "image"),
    (CONTAINERS, "container"),
    (SANDBOXES, "sandbox"),
    (LEASES, "lease"),
)


class Owners:
    """The holders of all content and snapshots of a root, computed once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._held: dict[Node, list[Owner]] = {}
        for table, kind in _RANKS:
            for scope in state.scopes(table):
                for key in state.rows(table, scope):
                    self._mark((table, scope, key), Owner(kind, f"{scope[0]}/{key}"))
        self._blobs: dict[Digest, list[tuple[str, ...]]] = {}
        for scope in state.scopes(CONTENT):
            for digest in state.rows(CONTENT, scope):
                self._blobs.setdefault(Digest(digest), []).append(scope)

    def of_blob(self, digest: Digest) -> Owner | None:
        """Whose a blob is, whatever the namespace; None if no record knows it."""
        scopes = self._blobs.get(digest)
        if scopes is None:
            return None
        found = [owner for scope in scopes for owner in self._held.get((CONTENT, scope, digest), ())]
        return _one(found) or Owner("namespace", scopes[0][0])

    def of_snapshot(self, namespace: str, snapshotter: str, key: str) -> Owner:
        """Whose a recorded snapshot is."""
        found = self._held.get((SNAPSHOTS, (namespace, snapshotter), key), [])
        return _one(found) or Owner("namespace", namespace)

    def images_of(self, digest: Digest) -> list[str]:
        """The names of images, without namespace, that hold a blob."""
        return [
            owner.name.partition("/")[2]
            for scope in self._blobs.get(digest, ())
            for owner in self._held.get((CONTENT, scope, digest), ())
            if owner.kind == "image"
        ]

    def _mark(self, root: Node, owner: Owner) -> None:
        """Note ``owner`` on everything below ``root``."""
        seen = {root}
        pending = [root]
        while pending:
            node = pending.pop()
            for target in self._targets(node):
                if target in seen or self._state.get(*target) is None:
                    continue
                seen.add(target)
                pending.append(target)
                self._held.setdefault(target, []).append(owner)

    def _targets(self, node: Node) -> Iterator[Node]:
        table, scope, key = node
        record = self._state.get(table, scope, key)
        if record is None:
            return
        yield from held_by_record(node, record)
        if table is LEASES:
            for resource in self._state.rows(RESOURCES, (scope[0], key)).values():
                if (target := resource_node(scope[0], resource)) is not None:
                    yield target


def _one(owners: list[Owner]) -> Owner | None:
    """The first by rank, with how many others share it."""
    if not owners:
        return None
    kinds = [kind for _, kind in _RANKS]
    first, *others = sorted(set(owners), key=lambda owner: (kinds.index(owner.kind), owner.name))
    alike = sum(1 for owner in others if owner.kind == first.kind)
    return Owner(first.kind, f"{first.name} and {alike} more" if alike else first.name)
