"""The metadata of a root made again: from a backup, from what a damaged database still gives, and from the disk.

In this order, each only for what those before it do not have:

    the damaged database    tables that can be read to their end, as they are
    the newest backup       tables that cannot; of those, what the damaged one still gives goes over it
    the disk                content by its files; snapshots by what their drivers keep beside them; containers by the
                            bundles of tasks; images by the manifests that nothing else names

What the disk cannot tell is lost: names of images (unless an annotation says one, else ``rebuilt/<digest>``), labels
set by clients, leases, containers whose tasks are gone; a snapshot without its note or its parent is kept by itself, as
``rebuilt/<number>``. Content goes to the namespaces that have a snapshot of it, else to ``default``. What nothing
refers to then is held by a lease, ``rebuilt``, for ``GRACE_DAYS`` days.

The old file is set aside, never deleted. A new one is written whole under a private name, then takes over the name of
the old one in steps (``_replace``) after each of which SQLite finds either all of the old one or all of the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from portside.client.closure import child_labels
from portside.content.blobs import BlobStore
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.labels import GC_EXPIRE, GC_REF_SNAPSHOT, UNCOMPRESSED, check_identifier
from portside.core.leases import Lease, Resource
from portside.core.snapshots import Kind, SnapshotInfo
from portside.doctor.layers import Documents, read_documents
from portside.doctor.live import is_strange
from portside.doctor.owners import Owners
from portside.doctor.records import database, salvage
from portside.errors import PortsideError, from_oserror
from portside.linux.sync import sync_file_system
from portside.metadata import backups
from portside.metadata.database import Database, Transaction
from portside.metadata.records import Scope, Snapshot
from portside.metadata.schema import (
    CONTAINERS,
    CONTENT,
    COUNTERS,
    IMAGES,
    LEASES,
    NAMESPACES,
    RESOURCES,
    SNAPSHOTS,
    TABLES,
    Table,
    resource_key,
)
from portside.metadata.state import Change, State
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest
from portside.snapshots.directories import DirectoryDriver
from portside.supervisor.bundles import Bundles

DEFAULT_NAMESPACE = "default"
R = TypeVar("R")
RUNTIME = "io.containerd.runc.v2"
LEASE = "rebuilt"
GRACE_DAYS = 7
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations that tell an image's name."""
_SUFFIXES = ("-wal", "-journal")
"""What SQLite has beside a database and takes for a part of it."""


@dataclass(slots=True)
class Rebuilt:
    """What was done."""

    sources: list[str] = field(default_factory=list)
    """Where records came from, in words."""
    set_aside: str = ""
    """Where the old file is now."""
    counts: dict[str, int] = field(default_factory=dict)
    """Records made from the disk, by table."""


async def rebuild(
    root: Path, state_directory: Path | None, blobs: BlobStore, drivers: dict[str, DirectoryDriver]
) -> Rebuilt:
    """Replace the database of a root that nobody has open. ResourceExhausted for a full disk: the old one stays."""
    path = database(root)
    rebuilt = Rebuilt()
    known = State()
    for change in _kept(path, rebuilt):
        known.apply(change)
    made = _Disk(root, state_directory, blobs, drivers, known).changes()
    for change in made:
        rebuilt.counts[change.table.name] = rebuilt.counts.get(change.table.name, 0) + 1
    rebuilt.sources.append("the disk")
    new = path.with_name(f".new-{secrets.token_hex(8)}.db")
    try:
        await _write(new, known)
        rebuilt.set_aside = _set_aside(path)
        _replace(path, new)
    except OSError as error:
        raise from_oserror(error, f"rebuild metadata {path}") from error
    finally:
        for leftover in path.parent.glob(".new-*.db*"):  # also of one that a crash ended
            leftover.unlink()
    return rebuilt


def _kept(path: Path, rebuilt: Rebuilt) -> Iterator[Change]:
    """What of the old database and the newest good backup holds."""
    current, whole = _salvaged(path)
    if current:
        rebuilt.sources.append("the damaged database")
    older: list[Change] = []
    for copy in backups.found(path):
        try:
            backups.verify(copy)
            older, _ = salvage(copy)
        except PortsideError:
            continue
        rebuilt.sources.insert(0, f"the backup {copy.name}")
        break
    yield from (change for change in older if change.table.name not in whole)
    yield from current


def _salvaged(path: Path) -> tuple[list[Change], set[str]]:
    if not path.is_file() or not path.stat().st_size:
        return [], set()
    changes, whole = salvage(path)
    # An empty table that reads well is no news if everything else is lost with it.
    return (changes, whole) if changes else ([], set())


async def _write(path: Path, known: State) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = Database.open(path)

    def put(tx: Transaction) -> None:
        for table, scope, key, record in records_of(known):
            tx.put(table, scope, key, record)

    try:
        await db.write(put)
    finally:
        await db.close()


def records_of(state: State) -> Iterator[Change]:
    """All records, namespaces first."""
    for table in sorted(TABLES, key=lambda table: table is not NAMESPACES):
        for scope in state.scopes(table):
            for key, record in state.rows(table, scope).items():
                yield Change(table, scope, key, record)


def _set_aside(path: Path) -> str:
    """Give the old database, with what belongs to it, another name beside the one it has; that name, empty if there is
    nothing."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    found = [suffix for suffix in ("", *_SUFFIXES) if os.path.lexists(f"{path}{suffix}")]
    for suffix in found:
        os.link(f"{path}{suffix}", f"{aside}{suffix}", follow_symlinks=False)
    return str(aside) if found else ""


def _replace(path: Path, new: Path) -> None:
    """Let ``new``, a database without a WAL, take over the name ``path``; each step is on disk before the next.

    SQLite would take the old WAL for the new database's, and what the old one had committed may be in its WAL alone.
    So the WAL goes in between, when the file that has the name has everything without it::

        meta.db             meta.db-wal
        old                 old
        old with its WAL    old             played again it changes nothing
        old with its WAL    -
        new                 -
    """
    merged = new.with_name(f"{new.name}.old")
    is_merged = _merge(path, merged)
    sync_file_system(path.parent)
    if is_merged:
        merged.rename(path)
        sync_file_system(path.parent)
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    sync_file_system(path.parent)
    new.rename(path)
    sync_file_system(path.parent)


def _merge(path: Path, merged: Path) -> bool:
    """Copy the old database to ``merged`` and play its WAL into that.

    False if it has none, or if SQLite makes nothing of the two: then nothing of it was to be had (``salvage``).
    """
    found = [suffix for suffix in _SUFFIXES if os.path.lexists(f"{path}{suffix}")]
    if not found or not path.is_file():
        return False
    for suffix in ("", *found):
        shutil.copy(f"{path}{suffix}", f"{merged}{suffix}")
    try:
        with contextlib.closing(sqlite3.connect(merged, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error:
        return False
    return not any(os.path.exists(f"{merged}{suffix}") for suffix in _SUFFIXES)


class _Disk:
    """Adds to ``known`` what the disk tells and no record does."""

    def __init__(
        self, root: Path, state_directory: Path | None, blobs: BlobStore, drivers: dict[str, DirectoryDriver],
        known: State,
    ) -> None:  # fmt: skip
        self._root, self._state_directory, self._blobs, self._drivers = root, state_directory, blobs, drivers
        self._known = known
        self._made: list[Change] = []
        self._now = datetime.now(UTC)

    def changes(self) -> list[Change]:
        """Everything that was added."""
        self._snapshots()
        self._content()
        self._containers()
        self._hold_the_rest()
        return self._made

    def _put(self, table: Table[R], scope: Scope, key: str, record: R) -> None:
        if scope and self._known.get(NAMESPACES, (), scope[0]) is None:
            self._known.apply(Change(NAMESPACES, (), scope[0], {}))
        change = Change(table, scope, key, record)
        self._known.apply(change)
        self._made.append(change)

    # Snapshots.

    def _snapshots(self) -> None:
        for name, driver in self._drivers.items():
            recorded = self._recorded(name)
            for number in driver.ids():
                if number not in recorded:
                    for namespace, info in _about(driver, number):
                        self._snapshot(name, driver, number, namespace, info)
            counter = max([*driver.ids(), self._known.get(COUNTERS, (), f"snapshot/{name}") or 0])
            self._known.apply(Change(COUNTERS, (), f"snapshot/{name}", counter))
        self._prune()
        for name, driver in self._drivers.items():
            for number in sorted(set(driver.ids()) - self._recorded(name)):
                self._stray(name, driver, number)

    def _recorded(self, name: str) -> set[int]:
        return {
            snapshot.number
            for scope in self._known.scopes(SNAPSHOTS)
            if scope[1] == name
            for snapshot in self._known.rows(SNAPSHOTS, scope).values()
        }

    def _snapshot(self, name: str, driver: DirectoryDriver, number: int, namespace: str, info: SnapshotInfo) -> None:
        scope = (namespace, name)
        if self._known.get(SNAPSHOTS, scope, info.name) is None:
            usage = driver.usage(number) if info.kind == Kind.COMMITTED else None
            self._put(SNAPSHOTS, scope, info.name, Snapshot(info, number, usage))

    def _stray(self, name: str, driver: DirectoryDriver, number: int) -> None:
        """Files that somebody may miss, of which it is not known what they were or what they stood on."""
        namespace = next((namespace for namespace, _ in _about(driver, number)), DEFAULT_NAMESPACE)
        made = self._made_ns(driver.files(number))
        info = SnapshotInfo(f"rebuilt/{number}", "", Kind.ACTIVE, {}, made, made)
        self._put(SNAPSHOTS, (namespace, name), info.name, Snapshot(info, number))

    def _prune(self) -> None:
        """Take back those whose parents could not be found, and what stands on them."""
        pending = True
        while pending:
            lost = [
                change
                for change in self._made
                if change.table is SNAPSHOTS
                and change.record.info.parent
                and self._known.get(SNAPSHOTS, change.scope, change.record.info.parent) is None
            ]
            for change in lost:
                self._made.remove(change)
                self._known.apply(change._replace(record=None))
            pending = bool(lost)

    # Content and images.

    def _content(self) -> None:
        sizes = dict(self._blobs.digests())
        documents = read_documents(self._blobs, sizes)
        recorded = {key for scope in self._known.scopes(CONTENT) for key in self._known.rows(CONTENT, scope)}
        places = self._namespaces(documents)
        labels = self._labels(documents)
        for digest in sorted(sizes):
            if digest in recorded:
                continue
            made = self._made_ns(self._blobs.path(digest))
            for namespace in sorted(places.get(digest) or {DEFAULT_NAMESPACE}):
                info = ContentInfo(digest, sizes[digest], labels.get(digest, {}), made, made)
                self._put(CONTENT, (namespace,), digest, info)
        self._images(documents, places)

    def _namespaces(self, documents: Documents) -> dict[Digest, set[str]]:
        """Who has a snapshot of a manifest has its content, too; and who has a manifest, what is above it."""
        by_chain: dict[str, set[str]] = {}
        for scope in self._known.scopes(SNAPSHOTS):
            for key in self._known.rows(SNAPSHOTS, scope):
                by_chain.setdefault(key, set()).add(scope[0])
        places: dict[Digest, set[str]] = {}
        for digest, manifest in documents.manifests.items():
            found = {name for chain in documents.chain_of(manifest) for name in by_chain.get(chain, ())}
            for each in (digest, *(child.digest for child in manifest.children())):
                places.setdefault(each, set()).update(found)
        for digest, index in documents.indexes.items():
            found = {name for child in index.children() for name in places.get(child.digest, ())}
            places.setdefault(digest, set()).update(found)
            for child in index.children():  # a manifest of another platform goes with its index
                places.setdefault(child.digest, set()).update(found)
        return places

    def _labels(self, documents: Documents) -> dict[Digest, dict[str, str]]:
        labels: dict[Digest, dict[str, str]] = {}
        for digest, document in documents.all():
            labels[digest] = child_labels(document)
        for manifest in documents.manifests.values():
            chains = documents.chain_of(manifest)
            for chain in chains:
                layer = documents.chains[chain]
                labels.setdefault(layer.descriptor.digest, {})[UNCOMPRESSED] = layer.diff_id
            for scope in self._known.scopes(SNAPSHOTS):
                if chains and chains[-1] in self._known.rows(SNAPSHOTS, scope):
                    labels.setdefault(manifest.config.digest, {})[f"{GC_REF_SNAPSHOT}{scope[1]}"] = chains[-1]
        return labels

    def _images(self, documents: Documents, places: dict[Digest, set[str]]) -> None:
        """A name for each manifest or index that nothing names: no index, no image."""
        named = {child.digest for index in documents.indexes.values() for child in index.children()}
        named |= {
            image.target.digest
            for scope in self._known.scopes(IMAGES)
            for image in self._known.rows(IMAGES, scope).values()
        }
        for digest, document in documents.all():
            if digest in named:
                continue
            for namespace in sorted(places.get(digest) or {DEFAULT_NAMESPACE}):
                name = next((document.annotations[key] for key in NAMES if document.annotations.get(key)), "")
                if not name or self._known.get(IMAGES, (namespace,), name) is not None:
                    name = f"rebuilt/{digest}"
                made = self._made_ns(self._blobs.path(digest))
                target = Descriptor(document.media_type, digest, documents.descriptors[digest].size)
                self._put(IMAGES, (namespace,), name, Image(name, target, {}, made, made))

    # Containers, and the rest.

    def _containers(self) -> None:
        if self._state_directory is None:
            return
        for bundle in Bundles(str(self._state_directory), str(self._root)).list():
            if is_strange(self._root, bundle):
                continue
            if self._known.get(CONTAINERS, (bundle.namespace,), bundle.id) is not None:
                continue
            path = Path(bundle.path) / "config.json"
            try:
                spec = path.read_bytes()
                json.loads(spec)
                check_identifier(bundle.id, "container")
            except (OSError, ValueError, PortsideError):
                continue
            made = self._made_ns(path)
            snapshotter = next((name for name in self._drivers if self._active(bundle.namespace, name, bundle.id)), "")
            record = Container(
                bundle.id, RUNTIME, AnyMessage(SPEC, spec), snapshotter=snapshotter,
                snapshot_key=bundle.id if snapshotter else "", created_ns=made, updated_ns=made,
            )  # fmt: skip
            self._put(CONTAINERS, (bundle.namespace,), bundle.id, record)

    def _active(self, namespace: str, snapshotter: str, key: str) -> bool:
        snapshot = self._known.get(SNAPSHOTS, (namespace, snapshotter), key)
        return snapshot is not None and snapshot.info.kind == Kind.ACTIVE

    def _hold_the_rest(self) -> None:
        """A lease, in each namespace, on what was made here and nobody refers to."""
        owners = Owners(self._known)
        for change in list(self._made):
            if change.table is CONTENT:
                owner, resource = owners.of_blob(Digest(change.key)), Resource("content", change.key)
            elif change.table is SNAPSHOTS:
                owner = owners.of_snapshot(change.scope[0], change.scope[1], change.key)
                resource = Resource(f"snapshots/{change.scope[1]}", change.key)
            else:
                continue
            if owner is not None and owner.kind == "namespace":
                self._hold(change.scope[0], resource)

    def _hold(self, namespace: str, resource: Resource) -> None:
        if self._known.get(LEASES, (namespace,), LEASE) is None:
            expires = (self._now + timedelta(days=GRACE_DAYS)).isoformat(timespec="seconds").replace("+00:00", "Z")
            lease = Lease(LEASE, {GC_EXPIRE: expires}, int(self._now.timestamp() * 1e9))
            self._put(LEASES, (namespace,), LEASE, lease)
        self._put(RESOURCES, (namespace, LEASE), resource_key(resource), resource)

    def _made_ns(self, path: Path) -> int:
        try:
            return path.lstat().st_mtime_ns
        except OSError:
            return int(self._now.timestamp() * 1e9)


def _about(driver: DirectoryDriver, number: int) -> Iterable[tuple[str, SnapshotInfo]]:
    """What a driver keeps beside a snapshot, checked; nothing if it makes no sense."""
    facts = driver.remembered(number)
    labels = facts.get("labels")
    try:
        namespace = check_identifier(str(facts["namespace"]), "namespace")
        kind, created = Kind(facts["kind"]), int(facts["created"])
        key, parent = str(facts["key"]), str(facts["parent"])
    except (KeyError, ValueError, TypeError, PortsideError):
        return ()
    if not key or not isinstance(labels, dict):
        return ()
    return (
        (namespace, SnapshotInfo(key, parent, kind, {str(k): str(v) for k, v in labels.items()}, created, created)),
    )
