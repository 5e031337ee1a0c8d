"""Opening the file of the metadata: what is asked of it before anything in it is believed.

A file is refused, with a sentence that names it and says what to do, when it is damaged, cut off, somebody else's or a
newer portside's, or when another process has it. SQLite mends what a crash leaves; whether the machine kept its word
is looked at whenever the last stop was not clean, which is to be seen: a clean one leaves no WAL. That check has a time
limit, as a large database on a slow disk must not keep a node from starting.

Not here: what happens with an open one (``database``), and mending (``portside doctor``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from portside.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    PortsideError,
    ResourceExhausted,
    Unavailable,
    Unknown,
    from_oserror,
)
from portside.metadata.holders import holders
from portside.metadata.schema import ADDED, APPLICATION_ID, IDENTITY, TABLES, VERSION, Table
from portside.metadata.state import Change

log = logging.getLogger(__name__)

CHECKPOINT_PAGES = 1000
"""The WAL is written back into the database when it has this many pages of 4 KiB."""
QUICK_SECONDS = 2.0
CHECK_SECONDS = 10.0
"""How long a file is checked, after a clean stop and after another one; what is not finished then is only logged."""
_STEPS = 20_000
"""Instructions of SQLite between two looks at the clock."""
BACKUP_PAGES = 64
"""Pages that a backup copies between two looks at the queue of writers: about a millisecond."""
ADVICE = "'portside doctor --repair' restores a backup or rebuilds it"


def open_connection(path: Path, things: Iterable[object] = ()) -> tuple[sqlite3.Connection, list[Change]]:
    """Open or create the database at ``path``: the connection, which the caller closes, and all records.

    ``things`` are on disk already and recorded nowhere else: with any, none is created. DataLoss if that would be, or
    if the file is damaged or not ours, Unavailable if another process has it open, FailedPrecondition if a
    newer portside wrote it, ResourceExhausted if there is no room to create it.
    """
    _make_file(path)
    unclean = _was_unclean(path)
    if unclean:
        log.warning("metadata %s: the last stop was not clean; checking it", path)
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect(path)
        return connection, load(connection, path, thorough=unclean, things=things)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise _refusal(error, path) from error
        raise


def load(connection: sqlite3.Connection, path: Path, *, thorough: bool, things: Iterable[object] = ()) -> list[Change]:
    """Create the tables where they are not, check the file that errors call ``path``, and read every record."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not version:
        if next(iter(things), None) is not None:  # a fresh one would make garbage of them
            raise DataLoss(f"open metadata {path}: it is gone, but the root has content or snapshots; {ADVICE}")
        _create(connection)
    elif version > VERSION:
        raise FailedPrecondition(
            f"open metadata {path}: schema version {version} was written by a newer portside, this one knows {VERSION};"
            " run that one, or move the file away"
        )
    elif connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise DataLoss(f"open metadata {path}: the database is not portside's; move it away, then {ADVICE}")
    check(connection, path, thorough=thorough)
    if 0 < version < VERSION:
        _migrate(connection, version, path)
    return [change for table in TABLES for change in _read(connection, table, path)]


def check(connection: sqlite3.Connection, path: Path, *, thorough: bool, seconds: float | None = None) -> None:
    """DataLoss if the file that errors call ``path`` is damaged; ``thorough`` also compares indexes with tables."""
    limit = seconds if seconds is not None else CHECK_SECONDS if thorough else QUICK_SECONDS
    deadline = time.monotonic() + limit
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        pragma = "integrity_check" if thorough else "quick_check"
        problems = [text for (text,) in connection.execute(f"PRAGMA {pragma}(3)")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        log.warning("metadata %s: not checked to the end within %.0f s", path, limit)
        return
    finally:
        connection.set_progress_handler(None, 0)
    if problems != ["ok"]:
        lines = [line for text in problems for line in text.splitlines() if not line.startswith("***")]
        raise DataLoss(f"open metadata {path}: damaged: {' '.join(lines[:1] or problems)}; {ADVICE}")


def copy_database(connection: sqlite3.Connection, target: Path, between: Callable[[], None]) -> None:
    """Copy what ``connection`` has into the new file ``target``, synced; ``between`` is called between parts.

    What ``between`` changes through the connection is in the copy (sqlite.org/c3ref/backup_finish.html).
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        connection.backup(copy, pages=BACKUP_PAGES, progress=lambda *left: between(), sleep=0)
        copy.execute("PRAGMA journal_mode = DELETE")
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _was_unclean(path: Path) -> bool:
    """Whether a WAL is there: the last connection that closes removes it."""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except OSError:
        return False


def _refusal(error: sqlite3.Error, path: Path) -> PortsideError:
    refusal = translate(error, f"open metadata {path}")
    if isinstance(refusal, DataLoss):
        return DataLoss(f"{refusal}; {ADVICE}")
    if isinstance(refusal, Unavailable) and (names := holders(path)):
        return Unavailable(f"{refusal}: {', '.join(names)}")
    return refusal


def _make_file(path: Path) -> None:
    """Create the file, private, where there is none. One that is there is not opened: if it is this process's own
    database, closing any descriptor of it would drop SQLite's locks (fcntl(2), on record locks)."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        is_file = stat.S_ISREG(os.lstat(path).st_mode)
    except OSError as error:
        raise from_oserror(error, f"open metadata {path}") from error
    if not is_file:
        raise DataLoss(f"open metadata {path}: not a regular file")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for table in TABLES:
        connection.execute(table.create)
    connection.execute(IDENTITY.insert, IDENTITY.row((), "uuid", str(uuid4())))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection, version: int, path: Path) -> None:
    """From an older schema to ours, in one transaction; an older portside refuses the database from then on."""
    log.info("metadata %s: migrating from schema version %d to %d", path, version, VERSION)
    connection.execute("BEGIN IMMEDIATE")
    for step in range(version + 1, VERSION + 1):
        for table in ADDED.get(step, ()):
            connection.execute(table.create)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, table: Table[Any], path: Path) -> list[Change]:
    changes = []
    for row in connection.execute(f"SELECT {', '.join(table.names)} FROM {table.name}"):
        try:
            scope, key, record = table.record(row)
        except (ValueError, KeyError, TypeError, AttributeError, PortsideError) as error:
            name = "/".join(str(part) for part in row[: len(table.scope) + len(table.key)])
            raise DataLoss(
                f"open metadata {path}: the record {table.name} {name} cannot be read: {error}; {ADVICE}"
            ) from error
        changes.append(Change(table, scope, key, record))
    return changes


def translate(error: Exception, step: str) -> PortsideError:
    """Our error for SQLite's primary result code (sqlite.org/rescode.html), or for a value that no row can hold."""
    if isinstance(error, OSError):
        return from_oserror(error, step)
    if isinstance(error, (UnicodeError, OverflowError)):
        return InvalidArgument(f"{step}: {error}")
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return ResourceExhausted(f"{step}: no space left on the disk")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"{step}: another process has it open")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DataLoss(f"{step}: the file is damaged or not a database ({error})")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return Unavailable(f"{step}: {error}")
    return Unknown(f"{step}: {error}")
