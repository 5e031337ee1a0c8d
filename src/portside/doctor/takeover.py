"""Taking over a stopped containerd's root: a plan first, then its execution on a root of ours that nobody serves.

    content       linked where both roots are on one file system, else copied (shared blocks where possible)
    snapshots     directories of overlayfs and native: files of committed ones are linked, active ones are copied
    records       namespaces, images, containers, leases: in one transaction, when all they speak of is on disk

The old root is only read. What our root has already is left as it is, so that a takeover that was interrupted can be
run again; what an interrupted one leaves on disk has no record, and the next start removes it. Not here: what the old
root holds (``upstream``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from portside.content.blobs import BlobStore
from portside.core.containers import RUNTIMES
from portside.core.content import ContentInfo
from portside.core.labels import check_identifier
from portside.core.plugin import CONTENT, SNAPSHOTTER
from portside.core.snapshots import Kind
from portside.doctor.mounted import mounted
from portside.doctor.records import database, read_records
from portside.doctor.upstream import StoredSnapshot, Upstream, read
from portside.engine.ownership import RootLock
from portside.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, from_oserror
from portside.linux.sync import sync_file_system
from portside.metadata.database import Database, Transaction
from portside.metadata.records import Snapshot
from portside.metadata.schema import (
    CONTAINERS,
    COUNTERS,
    IMAGES,
    LEASES,
    NAMESPACES,
    RESOURCES,
    SANDBOXES,
    SNAPSHOTS,
    resource_key,
)
from portside.metadata.schema import CONTENT as CONTENT_TABLE
from portside.metadata.snapshots import facts_of
from portside.metadata.state import State
from portside.oci.digest import Digest
from portside.snapshots.copying import copy_data, copy_tree
from portside.snapshots.directories import DirectoryDriver
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver

DRIVERS: dict[str, type[DirectoryDriver]] = {"overlayfs": OverlayDriver, "native": NativeDriver}
MAX_NAMED = 5
"""Mounts that an error names."""
Progress = Callable[[str], None]
"""Told what is being done, object by object."""


@dataclass(slots=True)
class Plan:
    """What will be taken; everything else is in ``left_out`` or ``there``."""

    upstream: Upstream
    blobs: dict[Digest, int] = field(default_factory=dict)
    """Sizes."""
    content: list[tuple[str, ContentInfo]] = field(default_factory=list)
    snapshots: list[StoredSnapshot] = field(default_factory=list)
    """Parents before children."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many of each kind of record will be made."""
    there: int = 0
    """Records that our root has already."""
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What was done."""

    plan: Plan
    linked: int = 0
    copied: int = 0
    """Blobs."""
    copied_bytes: int = 0


def check_stopped(root: Path, state: Path) -> None:
    """FailedPrecondition while something is mounted for containers of the old root. Whether it runs tells ``read``."""
    points = [mount.point for mount in mounted() if mount.concerns(root, state)]
    if points:
        more = f" and {len(points) - MAX_NAMED} more" if len(points) > MAX_NAMED else ""
        raise FailedPrecondition(
            f"root {root}: its containers are not stopped; mounted are {', '.join(points[:MAX_NAMED])}{more}"
        )


def make_plan(upstream: Upstream, state: State) -> Plan:
    """What of ``upstream`` can be taken into a root that has ``state``. Reads sizes of blobs, changes nothing."""
    plan = Plan(upstream, left_out=list(upstream.left_out))
    _plan_content(plan, state)
    _plan_snapshots(plan, state)
    records = list(_records(upstream, plan, state))
    for kind, *_ in records:
        plan.counts[kind] = plan.counts.get(kind, 0) + 1
    return plan


def dry_run(source: Path, source_state: Path, root: Path) -> Plan:
    """The plan alone. What our root has is told only if it is there and nobody has it open."""
    upstream = read(source)
    check_stopped(source, source_state)
    return make_plan(upstream, read_records(root).state)


async def take_over(
    source: Path, source_state: Path, root: Path, *, copy: bool = False, progress: Progress = lambda what: None
) -> Outcome:
    """Read ``source`` and bring it into ``root``, which is made if missing.

    Errors of ``read`` and ``check_stopped``; RootLocked while a daemon of ours has ``root``; ResourceExhausted for a
    full disk. After an error our root has no new record.
    """
    _check_apart(source, root)
    upstream = read(source)
    check_stopped(source, source_state)
    lock = RootLock(root, "")
    try:
        db = Database.open(database(root))
        try:
            return await _Takeover(root, db, make_plan(upstream, db.state), copy, progress).run()
        finally:
            await db.close()
    except OSError as error:
        raise from_oserror(error, f"take over {error.filename or source}") from error
    except RecursionError as error:
        raise ResourceExhausted(f"take over {source}: a snapshot has directories nested too deeply") from error
    finally:
        lock.close()


def _check_apart(source: Path, root: Path) -> None:
    if source.resolve() == root.resolve():
        raise InvalidArgument(f"root {root}: it cannot be taken over into itself")


def _plan_content(plan: Plan, state: State) -> None:
    broken: set[Digest] = set()
    for namespace, info in plan.upstream.content:
        name = f"blob {namespace}/{info.digest}"
        if state.get(CONTENT_TABLE, (namespace,), info.digest) is not None:
            plan.there += 1
            continue
        if not _is_fit(plan, namespace, "namespace", name):
            continue
        if info.digest not in plan.blobs and info.digest not in broken:
            size = _size(plan.upstream.blob(info.digest))
            if size == info.size:
                plan.blobs[info.digest] = size
            else:
                broken.add(info.digest)
        if info.digest in broken:
            plan.left_out.append(f"{name}: its file is missing or not of the {info.size} bytes recorded")
        else:
            plan.content.append((namespace, info))


def _plan_snapshots(plan: Plan, state: State) -> None:
    known = {(each.namespace, each.snapshotter, each.info.name): each for each in plan.upstream.snapshots}
    decided: dict[tuple[str, str, str], bool] = {}
    for start in known:
        chain, key = [], start
        while key in known and key not in decided and key not in chain:
            chain.append(key)
            key = (*key[:2], known[key].info.parent)
        for key in reversed(chain):
            decided[key] = _take_snapshot(plan, state, known[key], decided)


def _take_snapshot(plan: Plan, state: State, each: StoredSnapshot, decided: dict[tuple[str, str, str], bool]) -> bool:
    """Whether it is in our root or will be."""
    scope, info = (each.namespace, each.snapshotter), each.info
    name = f"snapshot {each.namespace}/{each.snapshotter}/{info.name}"
    if state.get(SNAPSHOTS, scope, info.name) is not None:
        plan.there += 1
        return True
    if not _is_fit(plan, each.namespace, "namespace", name):
        return False
    if info.parent and not decided.get((*scope, info.parent)):
        plan.left_out.append(f"{name}: its parent {info.parent} is not there")
        return False
    if each.files is None or not each.files.is_dir():
        plan.left_out.append(f"{name}: its directory {each.files} is missing")
        return False
    plan.snapshots.append(each)
    return True


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size if path.is_file() and not path.is_symlink() else None
    except OSError:
        return None


def _is_fit(plan: Plan, text: str, kind: str, name: str) -> bool:
    try:
        check_identifier(text, kind)
    except InvalidArgument as error:
        plan.left_out.append(f"{name}: {error}")
        return False
    return True


def _records(upstream: Upstream, plan: Plan, state: State) -> Iterator[tuple[str, Callable[[Transaction], None]]]:
    """What the transaction makes besides snapshots: the kind of each, and how."""

    def put(table: object, scope: tuple[str, ...], key: str, record: object) -> Callable[[Transaction], None]:
        return lambda tx: tx.put(table, scope, key, record)  # type: ignore[arg-type]

    for namespace, labels in upstream.namespaces.items():
        if state.get(NAMESPACES, (), namespace) is not None:
            plan.there += 1
        elif _is_fit(plan, namespace, "namespace", f"namespace {namespace}"):
            yield "namespaces", put(NAMESPACES, (), namespace, labels)
    for namespace, info in plan.content:
        yield "content", put(CONTENT_TABLE, (namespace,), info.digest, info)
    for namespace, image in upstream.images:
        if state.get(IMAGES, (namespace,), image.name) is not None:
            plan.there += 1
        else:
            yield "images", put(IMAGES, (namespace,), image.name, image)
    for namespace, container in upstream.containers:
        name = f"container {namespace}/{container.id}"
        if state.get(CONTAINERS, (namespace,), container.id) is not None:
            plan.there += 1
        elif _is_fit(plan, container.id, "container", name):
            if container.runtime not in RUNTIMES:
                plan.notes.append(f"{name}: taken, but its runtime {container.runtime!r} needs a shim of its own")
            yield "containers", put(CONTAINERS, (namespace,), container.id, container)
    for namespace, sandbox in upstream.sandboxes:
        if state.get(SANDBOXES, (namespace,), sandbox.id) is not None:
            plan.there += 1
        else:
            yield "sandboxes", put(SANDBOXES, (namespace,), sandbox.id, sandbox)
    for namespace, lease, resources in upstream.leases:
        if state.get(LEASES, (namespace,), lease.id) is not None:
            plan.there += 1
            continue
        yield "leases", put(LEASES, (namespace,), lease.id, lease)
        for resource in resources:
            if resource.type != "ingests":
                yield "resources", put(RESOURCES, (namespace, lease.id), resource_key(resource), resource)
    for _ in plan.snapshots:
        yield "snapshots", lambda tx: None


class _Takeover:
    """One execution of a plan."""

    def __init__(self, root: Path, db: Database, plan: Plan, copy: bool, progress: Progress) -> None:
        self._root, self._db, self._plan, self._copy, self._progress = root, db, plan, copy, progress
        self._outcome = Outcome(plan)
        self._blobs = BlobStore(root / f"{CONTENT}.content")
        self._drivers = {name: kind(root / f"{SNAPSHOTTER}.{name}") for name, kind in DRIVERS.items()}
        self._last = {name: self._last_number(name) for name in DRIVERS}
        self._numbers: dict[tuple[str, str, str], int] = {}

    async def run(self) -> Outcome:
        """Files first, then one transaction."""
        for digest, size in self._plan.blobs.items():
            self._progress(f"blob {digest}")
            self._blob(digest, size)
        for each in self._plan.snapshots:
            self._progress(f"snapshot {each.namespace}/{each.snapshotter}/{each.info.name}")
            self._snapshot(each)
        sync_file_system(self._root)
        await self._db.write(self._record)
        return self._outcome

    def _blob(self, digest: Digest, size: int) -> None:
        target, source = self._blobs.path(digest), self._plan.upstream.blob(digest)
        if self._blobs.size(digest) == size:
            return
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if not self._copy:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(source, target, follow_symlinks=False)
                self._outcome.linked += 1
                return
        private = self._blobs.root / "ingest" / f".new-{secrets.token_hex(8)}"
        with open(source, "rb") as reader, open(private, "xb") as writer:
            copy_data(reader.fileno(), writer.fileno(), size)
            os.fchmod(writer.fileno(), 0o444)
        private.rename(target)
        self._outcome.copied += 1
        self._outcome.copied_bytes += size

    def _snapshot(self, each: StoredSnapshot) -> None:
        self._last[each.snapshotter] += 1
        number, driver = self._last[each.snapshotter], self._drivers[each.snapshotter]
        link = each.info.kind == Kind.COMMITTED and not self._copy

        def fill(place: Path) -> None:
            files = place / "fs"
            files.mkdir()
            assert each.files is not None
            copy_tree(os.fsencode(each.files), os.fsencode(files), link=link)
            if each.info.kind == Kind.ACTIVE and each.snapshotter == "overlayfs":
                (place / "work").mkdir(mode=0o711)

        driver.make(number, fill)
        driver.remember(number, facts_of(each.namespace, each.info))
        self._numbers[each.namespace, each.snapshotter, each.info.name] = number

    def _record(self, tx: Transaction) -> None:
        for _, change in _records(self._plan.upstream, replace(self._plan, left_out=[], notes=[]), self._db.state):
            change(tx)
        for each in self._plan.snapshots:
            number = self._numbers[each.namespace, each.snapshotter, each.info.name]
            usage = each.usage
            if each.info.kind == Kind.COMMITTED and usage is None:
                usage = self._drivers[each.snapshotter].usage(number)
            scope = (each.namespace, each.snapshotter)
            tx.put(SNAPSHOTS, scope, each.info.name, Snapshot(each.info, number, usage))
        for name, number in self._last.items():
            tx.put(COUNTERS, (), f"snapshot/{name}", number)

    def _last_number(self, name: str) -> int:
        state = self._db.state
        recorded = [
            snapshot.number
            for scope in state.scopes(SNAPSHOTS)
            if scope[1] == name
            for snapshot in state.rows(SNAPSHOTS, scope).values()
        ]
        return max([*recorded, *self._drivers[name].ids(), state.get(COUNTERS, (), f"snapshot/{name}") or 0])
