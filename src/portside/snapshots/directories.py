"""What the drivers that keep a snapshot as a directory have in common: places, removal, counting, durability.

On disk, below the driver's root (mode 0700, so that nobody but us gets at setuid files of images)::

    snapshots/<number>/fs     the snapshot's own files            0755, or the parent's mode and owner
    snapshots/<number>/work   overlayfs' work directory            (overlayfs, active snapshots)
    snapshots/<number>/about  what it is, for the day when the records are lost: a JSON object, see ``remember``
    snapshots/new-<number>    one that is being made; garbage after a crash
    removed/…                 put aside by ``remove``, deleted by ``sweep``

A place is made under a private name and renamed, so ``snapshots/<number>`` is always complete. What a crash leaves
under ``snapshots/new-…`` is put aside when the driver is opened: a root has one owner.

What does not belong here: how a snapshot is mounted and how it gets its parents' files (``overlay``, ``native``).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from portside.core.snapshots import Kind, Usage
from portside.errors import NotFound, from_oserror
from portside.linux.sync import sync_file_system
from portside.linux.trees import count_tree, remove_tree

ABOUT = "about"
MAX_ABOUT = 1 << 20
"""Bytes of it that are read; labels are the only part that can be long."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


class DirectoryDriver:
    """Base of the directory drivers; see ``core/snapshots.SnapshotDriver`` for what the methods mean."""

    name = ""
    rebases = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self._snapshots = self.root / "snapshots"
        self._removed = self.root / "removed"
        for path in (self.root, self._snapshots, self._removed):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
        self._aside_lock = threading.Lock()
        self._aside = max((int(name) for name in os.listdir(self._removed) if name.isdecimal()), default=0)
        self._sweep_lock = threading.Lock()
        for name in os.listdir(self._snapshots):
            if not name.isdecimal():
                self._put_aside(self._snapshots / name)

    def files(self, number: int) -> Path:
        """The directory of the snapshot's own files."""
        return self._snapshots / str(number) / "fs"

    def create(self, number: int, kind: Kind, parents: Sequence[int]) -> None:
        """Make the place for it."""
        self.make(number, lambda new: self._fill(new, kind, parents))

    def make(self, number: int, fill: Callable[[Path], None]) -> None:
        """Make a place that ``fill``, given its private name, puts the files into; an existing one is replaced."""
        new = self._snapshots / f"new-{number}"
        try:
            self._put_aside(new)
            self._put_aside(self._snapshots / str(number))
            new.mkdir(mode=0o700)
            new.chmod(0o700)
            fill(new)
            new.rename(self._snapshots / str(number))
        except OSError as error:
            self._put_aside(new)
            raise from_oserror(error, f"make snapshot {number} of {self.name}") from error

    def _fill(self, place: Path, kind: Kind, parents: Sequence[int]) -> None:
        """Make ``fs`` and what else the kind of storage wants inside ``place``."""
        raise NotImplementedError

    def commit(self, number: int, *, sync: bool) -> Usage:
        """Count it and, if ``sync``, bring it to disk."""
        if sync:
            try:
                sync_file_system(self.files(number))
            except FileNotFoundError as error:
                raise NotFound(f"commit snapshot {number} of {self.name}: no such snapshot") from error
            except OSError as error:
                raise from_oserror(error, f"sync snapshot {number} of {self.name}") from error
        return self.usage(number)

    def usage(self, number: int) -> Usage:
        """Count it now."""
        try:
            inodes, size = count_tree(os.fsencode(self.files(number)))
        except FileNotFoundError as error:
            raise NotFound(f"count snapshot {number} of {self.name}: no such snapshot") from error
        except OSError as error:
            raise from_oserror(error, f"count snapshot {number} of {self.name}") from error
        return Usage(inodes, size)

    def remember(self, number: int, facts: Mapping[str, Any]) -> None:
        """Write ``facts`` beside the files, whole or not at all."""
        path = f"{self._snapshots}/{number}/{ABOUT}"
        data = _encode(facts).encode()
        try:
            try:
                _write_new(path, data)  # for a new snapshot, which nobody knows yet
            except FileExistsError:
                private = f"{path}.{os.urandom(4).hex()}"
                _write_new(private, data)
                os.unlink(path)  # ext4 brings a file to disk that is renamed over another: a millisecond
                os.rename(private, path)
        except OSError as error:
            raise from_oserror(error, f"write what snapshot {number} of {self.name} is") from error

    def remembered(self, number: int) -> Mapping[str, Any]:
        """What ``remember`` wrote; empty without it, or if it cannot be read."""
        try:
            with open(self._snapshots / str(number) / ABOUT, "rb") as file:
                facts = json.loads(file.read(MAX_ABOUT))
        except (OSError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def remove(self, number: int) -> None:
        """Take it out of sight; missing is fine."""
        try:
            self._put_aside(self._snapshots / str(number))
        except OSError as error:
            raise from_oserror(error, f"remove snapshot {number} of {self.name}") from error

    def sweep(self) -> None:
        """Delete what ``remove`` put aside; one that cannot be deleted does not keep the others."""
        failed: OSError | None = None
        with self._sweep_lock:
            fd = os.open(self._removed, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name in os.listdir(fd):
                    try:
                        remove_tree(fd, name)
                    except OSError as error:
                        failed = failed or error
            finally:
                os.close(fd)
        if failed is not None:
            raise from_oserror(failed, f"delete removed snapshots of {self.name}") from failed

    def ids(self) -> Sequence[int]:
        """The numbers that have a place on disk."""
        return sorted(int(name) for name in os.listdir(self._snapshots) if name.isdecimal())

    def _put_aside(self, path: Path) -> None:
        with self._aside_lock:
            self._aside += 1
            number = self._aside
        try:
            path.rename(self._removed / str(number))
        except FileNotFoundError:
            return


def _write_new(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
