"""Every byte below a root: whose it is, and what of it is nobody's; and records whose files are gone. Reads only.

The root is walked once, and each file booked on one owner. Directories that are named by a plugin we know are looked
into; others are booked whole, on their plugin if the name is a plugin's URI, else as foreign. Hard links count once.

While a daemon runs, things come and go: what is younger than ``YOUNG`` seconds or was removed meanwhile is not judged.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from portside.core.plugin import CONTENT, METADATA, RUNTIME, SNAPSHOTTER, VERBS
from portside.core.snapshots import Kind
from portside.doctor.owners import Owners
from portside.doctor.report import Finding, Owner, Report
from portside.errors import InvalidArgument
from portside.linux.trees import count_tree
from portside.metadata.schema import CONTAINERS, INGESTS, SANDBOXES, SNAPSHOTS
from portside.metadata.schema import CONTENT as CONTENT_TABLE
from portside.metadata.state import State
from portside.oci.digest import Digest

YOUNG = 60.0
"""Seconds that something may be under way between disk and record."""
SCRATCH = ".doctor-"
"""What names of our own working directories in a root begin with."""
_URI = re.compile(r"(?:io|com|org)\.[a-z0-9]+(?:[.-][A-Za-z0-9_-]+)+")
_LAYOUT = Owner("layout")
DIRECTORY_SNAPSHOTTERS = ("overlayfs", "native")


class Survey:
    """One walk of a root."""

    def __init__(self, root: Path, state: State, owners: Owners, report: Report) -> None:
        self._root, self._state, self._owners, self._report = root, state, owners, report
        self._now = time.time()
        self._seen: set[tuple[int, int]] = set()

    def run(self) -> None:
        """Book everything, then look for records without files."""
        self._book_itself(self._root)
        for entry in _entries(self._root):
            self._top(entry)
        self._records()

    def _top(self, entry: os.DirEntry[str]) -> None:
        path, name = Path(entry.path), entry.name
        if name == f"{CONTENT}.content":
            self._content(path)
        elif name.startswith(f"{SNAPSHOTTER}.") and (path / "snapshots").is_dir():
            self._snapshotter(path, name.removeprefix(f"{SNAPSHOTTER}."))
        elif name == f"{METADATA}.sqlite":
            self._metadata(path)
        elif name == f"{VERBS}.logs":
            self._per_container(path, "log")
        elif name == f"{RUNTIME}.task":
            self._per_container(path, "work")
        elif name.startswith(SCRATCH):
            self._orphan("orphan scratch", name, "left by an examination that was stopped", path)
        elif name == "lock":
            self._book(path, Owner("metadata", "lock"))
        elif name.endswith(".cache"):
            self._book(path, Owner("cache", name))
        elif _URI.fullmatch(name):
            self._book(path, Owner("plugin", name))
        else:
            self._book(path, Owner("foreign", name))

    # Content.

    def _content(self, root: Path) -> None:
        self._book_itself(root)
        for entry in _entries(root):
            if entry.name == "blobs":
                self._blobs(Path(entry.path))
            elif entry.name == "ingest":
                self._ingests(Path(entry.path))
            else:
                self._book(Path(entry.path), Owner("foreign", f"{root.name}/{entry.name}"))

    def _blobs(self, root: Path) -> None:
        self._book_itself(root)
        for algorithm in _entries(root):
            self._book_itself(Path(algorithm.path))
            for entry in _entries(Path(algorithm.path)):
                path = Path(entry.path)
                try:
                    digest = Digest.parse(f"{algorithm.name}:{entry.name}")
                except InvalidArgument:
                    self._book(path, Owner("foreign", f"blobs/{algorithm.name}/{entry.name}"))
                    continue
                owner = self._owners.of_blob(digest) or self._shared(digest)
                if owner is not None:
                    self._book(path, owner)
                else:
                    self._orphan("orphan blob", digest, "content that no namespace has", path, digest)

    def _shared(self, digest: Digest) -> Owner | None:
        """The ingest that is to become a blob that another namespace had."""
        for scope in self._state.scopes(INGESTS):
            for ingest in self._state.rows(INGESTS, scope).values():
                if ingest.shared_size and ingest.expected == digest:
                    return Owner("ingest", f"{scope[0]}/{ingest.ref}")
        return None

    def _ingests(self, root: Path) -> None:
        self._book_itself(root)
        known = {
            hashlib.sha256(ingest.key.encode()).hexdigest(): f"{scope[0]}/{ingest.ref}"
            for scope in self._state.scopes(INGESTS)
            for ingest in self._state.rows(INGESTS, scope).values()
        }
        for entry in _entries(root):
            if entry.name in known:
                self._book(Path(entry.path), Owner("ingest", known[entry.name]))
            else:
                detail = "a write that nobody will take up again"
                self._orphan("orphan ingest", entry.name[:20], detail, Path(entry.path))

    # Snapshots.

    def _snapshotter(self, root: Path, name: str) -> None:
        self._book_itself(root)
        numbers = {
            str(snapshot.number): (scope[0], key)
            for scope in self._state.scopes(SNAPSHOTS)
            if scope[1] == name
            for key, snapshot in self._state.rows(SNAPSHOTS, scope).items()
        }
        for entry in _entries(root):
            path = Path(entry.path)
            if entry.name == "removed":
                self._book(path, Owner("removed", f"snapshots of {name}"))
            elif entry.name != "snapshots":
                self._book(path, Owner("foreign", f"{root.name}/{entry.name}"))
                continue
            else:
                self._book_itself(path)
                for place in _entries(path):
                    self._snapshot(name, place, numbers.get(place.name))

    def _snapshot(self, name: str, place: os.DirEntry[str], known: tuple[str, str] | None) -> None:
        path = Path(place.path)
        if known is not None:
            self._book(path, self._owners.of_snapshot(known[0], name, known[1]))
            return
        detail = "a snapshot that no record knows" if place.name.isdecimal() else "a snapshot that was being made"
        subject = (name, int(place.name)) if place.name.isdecimal() else None
        self._orphan("orphan snapshot", f"{name}/{place.name}", detail, path, subject)

    # The rest.

    def _metadata(self, root: Path) -> None:
        self._book_itself(root)
        for entry in _entries(root):
            name = entry.name
            label = "backups" if name == "backups" else "set aside" if ".damaged-" in name else "database"
            self._book(Path(entry.path), Owner("metadata", label))

    def _per_container(self, root: Path, kind: str) -> None:
        self._book_itself(root)
        for namespace in _entries(root):
            if not namespace.is_dir(follow_symlinks=False):
                self._book(Path(namespace.path), Owner("foreign", f"{root.name}/{namespace.name}"))
                continue
            self._book_itself(Path(namespace.path))
            for entry in _entries(Path(namespace.path)):
                name = f"{namespace.name}/{entry.name}"
                if self._state.get(CONTAINERS, (namespace.name,), entry.name) is not None:
                    self._book(Path(entry.path), Owner("log" if kind == "log" else "container", name))
                elif self._state.get(SANDBOXES, (namespace.name,), entry.name) is not None:
                    self._book(Path(entry.path), Owner("sandbox", name))
                else:
                    self._orphan(f"orphan {kind}", name, "of a container that is gone", Path(entry.path))

    def _records(self) -> None:
        """Records whose files are gone."""
        content = self._root / f"{CONTENT}.content" / "blobs"
        for scope in self._state.scopes(CONTENT_TABLE):
            for digest, info in self._state.rows(CONTENT_TABLE, scope).items():
                path = content / info.digest.algorithm / info.digest.hex
                size = _size(path)
                if size == info.size or self._is_young(info.updated_ns):
                    continue
                what = "its file is gone" if size is None else f"its file has {size} of {info.size} bytes"
                self._find("missing blob", f"{scope[0]}/{digest}", what, path, info.digest)
        for scope in self._state.scopes(SNAPSHOTS):
            for key, snapshot in self._state.rows(SNAPSHOTS, scope).items():
                self._check_snapshot(scope, key, snapshot.info.parent, snapshot.number, snapshot.info.created_ns)
        self._check_references()

    def _check_snapshot(self, scope: tuple[str, ...], key: str, parent: str, number: int, created_ns: int) -> None:
        name = f"{scope[0]}/{scope[1]}/{key}"
        place = self._root / f"{SNAPSHOTTER}.{scope[1]}" / "snapshots" / str(number)
        if scope[1] in DIRECTORY_SNAPSHOTTERS and not (place / "fs").is_dir() and not self._is_young(created_ns):
            self._find("missing snapshot", name, "its directory is gone", place, (*scope, key))
        if parent and self._state.get(SNAPSHOTS, scope, parent) is None:
            self._find("broken snapshot", name, f"its parent {parent} is not recorded", place, (*scope, key))

    def _check_references(self) -> None:
        for scope in self._state.scopes(CONTAINERS):
            for id, container in self._state.rows(CONTAINERS, scope).items():
                where = (scope[0], container.snapshotter)
                snapshot = self._state.get(SNAPSHOTS, where, container.snapshot_key)
                if container.snapshot_key and container.snapshotter in DIRECTORY_SNAPSHOTTERS and snapshot is None:
                    what = f"its snapshot {container.snapshotter}/{container.snapshot_key} is not recorded"
                    self._find("broken container", f"{scope[0]}/{id}", what, subject=(scope[0], id))
                elif snapshot is not None and snapshot.info.kind == Kind.COMMITTED:
                    what = f"its snapshot {container.snapshot_key} is committed, so it cannot be mounted"
                    self._find("broken container", f"{scope[0]}/{id}", what, subject=(scope[0], id))
        for scope in self._state.scopes(INGESTS):
            for ref, ingest in self._state.rows(INGESTS, scope).items():
                place = self._root / f"{CONTENT}.content" / "ingest" / hashlib.sha256(ingest.key.encode()).hexdigest()
                if not ingest.shared_size and not place.is_dir() and not self._is_young(ingest.started_ns):
                    self._find("missing ingest", f"{scope[0]}/{ref}", "its directory is gone", place, (scope[0], ref))

    # Booking.

    def _book(self, path: Path, owner: Owner) -> None:
        """Everything at ``path``."""
        try:
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                inodes, size = count_tree(os.fsencode(path))
                self._report.add(owner, size, inodes)
            else:
                self._book_status(status, owner)
        except OSError as error:
            self._vanished(path, error)

    def _book_itself(self, path: Path) -> None:
        """A directory that is looked into, without what is in it."""
        try:
            self._book_status(path.lstat(), _LAYOUT)
        except OSError as error:
            self._vanished(path, error)

    def _book_status(self, status: os.stat_result, owner: Owner) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in self._seen:
                return
            self._seen.add((status.st_dev, status.st_ino))
        self._report.add(owner, status.st_blocks * 512)

    def _orphan(self, kind: str, name: str, detail: str, path: Path, subject: object = None) -> None:
        before = self._report.bytes
        try:
            young = self._report.running and self._now - path.lstat().st_mtime < YOUNG
        except OSError:
            return
        self._book(path, Owner("young" if young else "orphan", kind.removeprefix("orphan ")))
        if not young:
            size = self._report.bytes - before
            self._report.findings.append(Finding(kind, str(name), detail, str(path), size, subject))

    def _find(self, kind: str, name: str, detail: str, path: Path | str = "", subject: object = None) -> None:
        self._report.findings.append(Finding(kind, name, detail, str(path), 0, subject))

    def _is_young(self, made_ns: int) -> bool:
        return self._report.running and self._now - made_ns / 1e9 < YOUNG

    def _vanished(self, path: Path, error: OSError) -> None:
        if not self._report.running:
            self._report.notes.append(f"{path}: {error.strerror}")


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory, by name; none if it is gone or is none."""
    try:
        with os.scandir(path) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return


def _size(path: Path) -> int | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
