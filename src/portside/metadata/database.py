"""The metadata on disk: one SQLite file, one writer thread, and all records in memory for readers.

    event loop                             writer thread
    write(function)  --- queue --->        function(tx) against the writer's own state, for all that wait
                                           BEGIN, the changes of all, COMMIT (one fsync)
    publish the changes to readers  <---   call_soon_threadsafe
    emit the events, wake the callers

A function that raises is undone alone. If the transaction cannot be stored, everything in it is undone, and the
functions are tried once more one by one, so that one that is too large for a full disk does not stop the others:
a function given to ``write`` may therefore run more than once, and must do nothing but change ``tx``.

On disk: ``meta.db`` in WAL mode, synchronous=FULL, opened exclusively (a second opener is refused), and
``meta.db-reserve``, a little space to let go when the disk is full, so that things can still be deleted. What a
crash leaves is what SQLite recovers by itself: every acknowledged transaction and nothing of an unfinished one.

What records mean is not known here (the stores of this package), nor what they look like as rows (``schema``), nor what
is asked of a file before it is used (``opening``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from portside.core.work import in_thread
from portside.errors import PortsideError, Unavailable
from portside.metadata.opening import CHECKPOINT_PAGES, copy_database, open_connection, translate
from portside.metadata.records import Scope
from portside.metadata.schema import IDENTITY, NAMESPACES, TABLES, Table
from portside.metadata.state import Change, Effect, State

log = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")
Event = tuple[str, str, str, Mapping[str, Any]]
"""Namespace, topic, type name, fields by their names in the message."""

MAX_GROUP = 256
"""Functions in one transaction."""
RESERVE = (CHECKPOINT_PAGES + 200) * 4096
"""Bytes kept aside for deleting things on a full disk: enough to write the whole WAL back, which frees it."""


class Transaction:
    """What a function given to ``Database.write`` sees: all records, with what was changed before it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._undo: list[Change] = []
        self.changes: list[Change] = []
        self.events: list[Event] = []
        self.now_ns = time.time_ns()
        """The time to stamp records with."""
        self.is_collection = False
        """Set by the collector in its own: these are no changes of clients."""

    def get(self, table: Table[R], scope: Scope, key: str) -> R | None:
        """One record."""
        return self._state.get(table, scope, key)

    def rows(self, table: Table[R], scope: Scope) -> Mapping[str, R]:
        """The records of a scope; copy before changing them."""
        return self._state.rows(table, scope)

    @property
    def state(self) -> State:
        """For reading at large (collection)."""
        return self._state

    def put(self, table: Table[R], scope: Scope, key: str, record: R) -> None:
        """Add or replace a record; a namespace comes into being with its first one."""
        if scope and self._state.get(NAMESPACES, (), scope[0]) is None:
            self._change(Change(NAMESPACES, (), scope[0], {}))
        self._change(Change(table, scope, key, record))

    def delete(self, table: Table[Any], scope: Scope, key: str) -> None:
        """Remove a record; missing is fine."""
        if self._state.get(table, scope, key) is not None:
            self._change(Change(table, scope, key, None))

    def emit(self, namespace: str, topic: str, type_name: str, fields: Mapping[str, Any]) -> None:
        """An event to send once this is committed."""
        self.events.append((namespace, topic, type_name, fields))

    def rollback(self) -> None:
        """Undo all changes."""
        while self._undo:
            self._state.apply(self._undo.pop())
        self.changes.clear()
        self.events.clear()

    def _change(self, change: Change) -> None:
        self._undo.append(self._state.apply(change))
        self.changes.append(change)


class _Job:
    """A function waiting for the writer, then its outcome."""

    __slots__ = ("error", "function", "future", "result", "tx")

    def __init__(self, function: Callable[[Transaction], Any], future: asyncio.Future[Any]) -> None:
        self.function, self.future = function, future
        self.tx: Transaction | None = None
        self.result: Any = None
        self.error: BaseException | None = None


class _Backup:
    """A copy that somebody waits for."""

    __slots__ = ("future", "target")

    def __init__(self, target: Path, future: asyncio.Future[None]) -> None:
        self.target, self.future = target, future


class Database:
    """The open database of one root. ``open`` makes it, ``close`` ends its thread; writes belong to one event loop."""

    def __init__(self, path: Path, connection: sqlite3.Connection, records: Sequence[Change]) -> None:
        self._path = path
        self._connection = connection
        self.state = State()
        """What is committed, for readers on the event loop."""
        self._working = State()
        for change in records:
            self.state.apply(change)
            self._working.apply(change)
        self.emit: Callable[[str, str, str, Mapping[str, Any]], None] = lambda *event: None
        """Called on the loop with each event of a committed transaction."""
        self.published: list[Callable[[Sequence[Effect]], None]] = []
        """Called on the loop with what each group changed, after readers see it."""
        self.mutated: list[Callable[[Sequence[Sequence[Effect]]], None]] = []
        """Called on the loop with what clients' functions changed, each by itself, after ``published``."""
        self.barrier: Callable[[Sequence[Change]], None] | None = None
        """Called in the writer with the changes of each function (the collector's write barrier)."""
        self._jobs: queue.SimpleQueue[_Job | _Backup | None] = queue.SimpleQueue()
        self._closed = self._ending = False
        self._reserve = _Reserve(path)
        self._thread = threading.Thread(target=self._run, name="portside-metadata", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, things: Iterable[object] = ()) -> Database:
        """Open or create the database at ``path``; ``things`` and errors as ``opening.open_connection``.

        Blocking: it reads all records, and the whole file after a stop that was not clean.
        """
        connection, records = open_connection(path, things)
        try:
            return cls(path, connection, records)
        except BaseException:
            connection.close()
            raise

    @property
    def uuid(self) -> str:
        """The identity of this root, made with it."""
        return self.state.get(IDENTITY, (), "uuid") or ""

    async def write(self, function: Callable[[Transaction], T]) -> T:
        """Run ``function`` in the writer; its result once it is on disk and visible to readers.

        What ``function`` raises comes back and leaves no trace. ResourceExhausted if the disk is full, InvalidArgument
        for text that is not Unicode and numbers beyond 64 bits; nothing is changed then. A caller that is cancelled
        does not stop what it asked for.
        """
        if self._closed:
            raise Unavailable(f"metadata {self._path}: closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(function, future))
        return await future

    async def backup(self, target: Path) -> None:
        """Write a copy of what is committed to the file ``target``, which must not exist, and sync it.

        Writes go on meanwhile. ResourceExhausted for a full disk; a copy that failed is removed. Whether it can be
        read is for the caller to see (``backups``).
        """
        if self._closed:
            raise Unavailable(f"metadata {self._path}: closed")
        job = _Backup(target, asyncio.get_running_loop().create_future())
        self._jobs.put(job)
        await job.future

    async def close(self) -> None:
        """Finish what is queued, write the WAL back, and close the file; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await in_thread(self._thread.join)

    # The writer thread.

    def _run(self) -> None:
        while not self._ending:
            self._work([self._jobs.get()])
        try:
            self._connection.close()
        except sqlite3.Error as error:
            log.warning("metadata %s: closing: %s", self._path, error)

    def _work(self, jobs: list[_Job | _Backup | None]) -> None:
        """Do ``jobs`` and those that wait; what is not a transaction comes after those that are."""
        while len(jobs) < MAX_GROUP and not self._jobs.empty():
            jobs.append(self._jobs.get())
        self._ending = self._ending or None in jobs
        self._group([job for job in jobs if isinstance(job, _Job)])
        for job in jobs:
            if isinstance(job, _Backup):
                self._back_up(job)

    def _back_up(self, job: _Backup) -> None:
        error: PortsideError | None = None
        try:
            copy_database(self._connection, job.target, lambda: None if self._jobs.empty() else self._work([]))
        except (sqlite3.Error, OSError) as failure:
            job.target.unlink(missing_ok=True)
            error = translate(failure, f"metadata {self._path}: back up to {job.target}")
        with contextlib.suppress(RuntimeError):  # the event loop has ended, and nobody waits
            job.future.get_loop().call_soon_threadsafe(_settle, job.future, error)

    def _group(self, jobs: Sequence[_Job]) -> None:
        """Run ``jobs`` in one transaction and hand the outcome to the loop."""
        for job in jobs:
            self._attempt(job)
        changes = [change for job in jobs if job.tx is not None for change in job.tx.changes]
        try:
            self._store(changes)
        except Exception as error:  # SQLite's, or a value that it cannot hold: this thread must outlive both
            for job in reversed(jobs):
                if job.tx is not None:
                    job.tx.rollback()
            if len(jobs) > 1:
                for job in jobs:
                    job.error = job.result = None
                    self._group([job])
                return
            jobs[0].error = translate(error, f"metadata {self._path}: store a change")
        self._deliver(jobs)

    def _attempt(self, job: _Job) -> None:
        job.tx = Transaction(self._working)
        try:
            job.result = job.function(job.tx)
            if job.tx.changes and self.barrier is not None:
                self.barrier(job.tx.changes)
        except BaseException as error:  # whatever it is, it belongs to the caller, not to this thread
            job.tx.rollback()
            job.error = error

    def _store(self, changes: Sequence[Change]) -> None:
        """Write ``changes``, durable on return; on a full disk once more with the reserve if they only remove."""
        if not changes:
            return
        try:
            self._execute(changes)
        except sqlite3.Error as error:
            if not _is_full(error) or not all(change.record is None for change in changes):
                raise
            if not self._reserve.release():
                raise
            self._execute(changes)
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._reserve.keep(at_once=True)
            return
        self._reserve.keep()

    def _execute(self, changes: Sequence[Change]) -> None:
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for table, scope, key, record in changes:
                if record is None:
                    execute(_DELETE[table], table.identity(scope, key))
                else:
                    execute(_INSERT[table], table.row(scope, key, record))
            execute("COMMIT")
        except Exception:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _deliver(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            jobs[0].future.get_loop().call_soon_threadsafe(self._publish, jobs)
        except RuntimeError:
            log.debug("metadata %s: the event loop has ended; what it wrote last is stored", self._path)

    # The event loop again.

    def _show(self, change: Change) -> Effect:
        return Effect(*change[:3], self.state.apply(change).record, change.record)

    def _publish(self, jobs: Sequence[_Job]) -> None:
        effects: list[Effect] = []
        mutations: list[Sequence[Effect]] = []
        for job in jobs:
            mine = [self._show(change) for change in job.tx.changes] if job.tx is not None else []
            effects += mine
            if mine and job.tx is not None and not job.tx.is_collection:
                mutations.append(mine)
        for job in jobs:
            if not job.future.done():
                if job.error is not None:
                    job.future.set_exception(job.error)
                else:
                    job.future.set_result(job.result)
        if effects:
            for listener in self.published:
                _guard(listener, effects)
        if mutations:
            for mutated in self.mutated:
                _guard(mutated, mutations)
        for job in jobs:
            if job.tx is not None:
                for event in job.tx.events:
                    _guard(self.emit, *event)


class _Reserve:
    """A file of ``RESERVE`` bytes beside the database, given up when a deletion finds the disk full."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + "-reserve")
        self._held = False
        self._next_try = 0.0
        self.keep()

    def keep(self, at_once: bool = False) -> None:
        """Take the space again if it was given up and there is room; tried once a second, or ``at_once``."""
        if self._held or (time.monotonic() < self._next_try and not at_once):
            return
        self._next_try = time.monotonic() + 1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE)
            finally:
                os.close(descriptor)
            self._held = True
        except OSError as error:
            log.debug("metadata: no room for the reserve %s: %s", self._path, error)
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def release(self) -> bool:
        """Give it up; False if there is nothing to give."""
        try:
            os.unlink(self._path)
        except OSError:
            return False
        self._held = False
        self._next_try = time.monotonic() + 1
        return True


_INSERT = {table: table.insert for table in TABLES}
_DELETE = {table: table.delete for table in TABLES}


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _settle(future: asyncio.Future[None], error: PortsideError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(None)


def _guard(function: Callable[..., None], *arguments: Any) -> None:
    """Call a listener; its failure is its own and must not lose the others theirs."""
    try:
        function(*arguments)
    except Exception:
        log.exception("metadata: a listener failed")
