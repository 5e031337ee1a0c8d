"""Copies of the database, made while it is in use, looked through, and only a few kept.

    <directory of meta.db>/backups/meta-<UTC time>.db     one that was read back and found whole
    <directory of meta.db>/backups/.new-…                 one in the making: garbage after a crash

A copy is made some time after changes, never in the way of writers (``Database.backup``), and gets its name only when
it was checked. Not here: what a copy is good for (``portside doctor --repair``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from portside.core.durations import Seconds
from portside.core.tables import decode
from portside.core.work import in_thread
from portside.errors import DataLoss, InvalidArgument, PortsideError, ResourceExhausted, from_oserror
from portside.metadata.database import Database
from portside.metadata.opening import check, translate
from portside.metadata.schema import APPLICATION_ID
from portside.metadata.state import Effect

log = logging.getLogger(__name__)

INTERVAL = 3600.0
"""Seconds between two copies, if there were changes."""
DELAY = 60.0
"""Seconds after the start before the first: a node that boots has other things to do."""
KEEP = 3
ROOM = 4
"""A copy is made if the disk has room for so many."""
_MARK = "meta-"


@dataclass(frozen=True, slots=True)
class BackupConfig:
    """What the plugin's table says of backups."""

    backup_interval: Seconds = INTERVAL
    """0: none are made."""
    backups: int = KEEP
    """How many are kept, at least 1."""


class Backups:
    """The copies of one open database. ``start`` makes them by the clock until ``close``."""

    def __init__(self, db: Database, path: Path, *, interval: float = INTERVAL, keep: int = KEEP) -> None:
        self._db, self._path, self._interval, self._keep = db, path, interval, keep
        self._changed = _is_newer(path, found(path)[:1])
        self._task: asyncio.Task[None] | None = None
        db.published.append(self._note)

    @classmethod
    def from_config(cls, db: Database, path: Path, table: Mapping[str, Any]) -> Backups:
        """With the keys of ``BackupConfig``; InvalidArgument."""
        config = decode(BackupConfig, table)
        if config.backups < 1:
            raise InvalidArgument(f"backups {config.backups}: want a number from 1 on")
        return cls(db, path, interval=config.backup_interval, keep=config.backups)

    def start(self) -> None:
        """Begin; nothing if the interval is 0."""
        if self._interval and self._task is None:
            self._task = asyncio.create_task(self._run(), name="back up the metadata")

    async def close(self) -> None:
        """Stop; a copy that is being made is finished first, as its writer must not be left behind."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def make(self) -> Path:
        """Make one now, and let the oldest go; its path. ResourceExhausted; DataLoss if it cannot be read back."""
        self._changed = False
        target = directory(self._path) / f"{_MARK}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.db"
        private = target.with_name(f".new-{target.name}")
        try:
            await in_thread(_prepare, self._path)
            await self._db.backup(private)
            await in_thread(_publish, private, target)
        except BaseException:
            self._changed = True
            raise
        await in_thread(_rotate, self._path, self._keep)
        log.debug("metadata %s: backed up to %s", self._path, target)
        return target

    async def _run(self) -> None:
        await asyncio.sleep(min(DELAY, self._interval))
        while True:
            if self._changed:
                making = asyncio.ensure_future(self.make())
                try:
                    await asyncio.shield(making)
                except asyncio.CancelledError:
                    await asyncio.gather(making, return_exceptions=True)
                    raise
                except PortsideError as error:
                    log.warning("no backup of the metadata: %s", error)
            await asyncio.sleep(self._interval)

    def _note(self, effects: Sequence[Effect]) -> None:
        self._changed = True


def directory(path: Path) -> Path:
    """Where the copies of the database at ``path`` are."""
    return path.parent / "backups"


def found(path: Path) -> list[Path]:
    """The copies of the database at ``path``, newest first."""
    try:
        names = os.listdir(directory(path))
    except OSError:
        return []
    return [directory(path) / name for name in sorted(names, reverse=True) if name.startswith(_MARK)]


def verify(copy: Path) -> None:
    """DataLoss if ``copy`` is not a whole database of ours. Blocking."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as connection:
            if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                raise DataLoss(f"backup {copy}: it is not a database of portside's")
            check(connection, copy, thorough=True)
    except sqlite3.Error as error:
        raise translate(error, f"verify backup {copy}") from error


def _is_newer(path: Path, copies: Sequence[Path]) -> bool:
    """Whether the database has changed since the newest of ``copies``, as far as times tell."""
    with contextlib.suppress(OSError):
        return not copies or os.stat(path).st_mtime_ns > os.stat(copies[0]).st_mtime_ns
    return True


def _prepare(path: Path) -> None:
    """Make the directory, remove what a crash left in it, and see that there is room."""
    place = directory(path)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        for leftover in place.glob(".new-*"):
            leftover.unlink()
        room, size = os.statvfs(place), os.stat(path).st_size
        with contextlib.suppress(FileNotFoundError):
            size += os.stat(f"{path}-wal").st_size
    except OSError as error:
        raise from_oserror(error, f"prepare {place}") from error
    if room.f_bavail * room.f_frsize < ROOM * size:
        raise ResourceExhausted(f"{place}: the disk has no room for {ROOM} times the {size} bytes of {path.name}")


def _publish(private: Path, target: Path) -> None:
    try:
        verify(private)
        private.rename(target)
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise from_oserror(error, f"keep backup {target}") from error
    except PortsideError:
        private.unlink(missing_ok=True)
        raise


def _rotate(path: Path, keep: int) -> None:
    for old in found(path)[keep:]:
        with contextlib.suppress(OSError):
            old.unlink()
