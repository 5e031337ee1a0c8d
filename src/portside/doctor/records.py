"""The records of a root, read from a copy: the database itself is neither opened nor changed, and may be in use.

A daemon has its database for itself, so SQLite would refuse a second reader. What is on disk at one moment is enough:
the database file and the WAL beside it are copied, and copied again if either was begun anew meanwhile (a checkpoint).
A WAL that still grows does no harm, as SQLite takes of the copy what was committed.

Not for the process that has the database open: closing a descriptor of the file would drop its locks (fcntl(2)).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from portside.core.plugin import METADATA
from portside.errors import DataLoss, PortsideError, Unavailable, from_oserror
from portside.metadata.opening import load, translate
from portside.metadata.schema import TABLES
from portside.metadata.state import Change, State

ATTEMPTS = 300
"""Copies until one was not disturbed."""


@dataclass(slots=True)
class Records:
    """What was read."""

    state: State = field(default_factory=State)
    missing: bool = False
    """There is no database, or one without tables."""
    problem: PortsideError | None = None
    """Why it cannot be read (DataLoss, FailedPrecondition); then ``state`` is empty."""


def database(root: Path) -> Path:
    """Where a root has its database."""
    return root / f"{METADATA}.sqlite" / "meta.db"


def read_records(root: Path) -> Records:
    """All records of ``root``, as they are now. Unavailable if its database changes faster than it can be copied."""
    path = database(root)
    if not _exists(path):
        return Records(missing=True)
    records = Records()
    with copied(path) as copy:
        try:
            with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    return Records(missing=True)  # a file was made, and nothing was ever written to it
                for change in load(connection, path, thorough=False):
                    records.state.apply(change)
        except sqlite3.Error as error:
            records.problem = translate(error, f"read metadata {path}")
        except PortsideError as error:
            records.problem = error
    return records


def salvage(path: Path) -> tuple[list[Change], set[str]]:
    """Every record that a damaged database still gives, and the names of tables that were read to their ends."""
    changes: list[Change] = []
    whole: set[str] = set()
    with copied(path) as copy, contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        for table in TABLES:
            clean = True
            rows = _rows(connection, f"SELECT {', '.join(table.names)} FROM {table.name}")
            for row in rows:
                if row is None:
                    clean = False
                    continue
                try:
                    scope, key, record = table.record(row)
                    changes.append(Change(table, scope, key, record))
                except (ValueError, KeyError, TypeError, AttributeError, PortsideError):
                    clean = False
            if clean:
                whole.add(table.name)
    return changes, whole


@contextlib.contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A copy of a database with its WAL, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="portside-doctor-") as place:
        copy = Path(place) / "meta.db"
        try:
            for _ in range(ATTEMPTS):
                before = _generation(path)
                _copy(path, copy)
                _copy(Path(f"{path}-wal"), Path(f"{copy}-wal"))
                if _generation(path) == before:
                    break
                time.sleep(0.01)
            else:
                raise Unavailable(f"read metadata {path}: it is written too busily; try again")
        except OSError as error:
            raise from_oserror(error, f"read metadata {path}") from error
        yield copy


def _rows(connection: sqlite3.Connection, statement: str) -> Iterator[tuple[object, ...] | None]:
    """The rows that can be had; None where the rest cannot."""
    try:
        yield from connection.execute(statement)
    except sqlite3.Error:
        yield None


def _generation(path: Path) -> tuple[object, ...]:
    """What changes when the file is written to or its WAL begun anew (the salts in its header)."""
    status = os.stat(path)
    try:
        with open(f"{path}-wal", "rb") as wal:
            header = wal.read(32)
    except FileNotFoundError:
        header = b""
    return status.st_ino, status.st_size, status.st_mtime_ns, header


def _copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(source, target)


def _exists(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        return path.stat().st_size > 0 or Path(f"{path}-wal").exists()
    except OSError as error:
        raise DataLoss(f"read metadata {path}: {error.strerror}") from error
