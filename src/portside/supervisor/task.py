"""A task as the daemon sees it: calls to its shim, each with a deadline, and what to do when there is no answer.

    shim             how one knows                     calls are answered
    ---------------  --------------------------------  --------------------------------------------------------
    answers          it does                           by it
    mute             a deadline passed                 state from its record; a kill goes past it; delete ends it
    dead             its pidfd, or nobody listens      from its record, after its leftovers were cleaned

What belongs here: one task. Which tasks there are, and events, is the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from portside.core.tasks import Exit, Process, Status, TaskIO
from portside.core.work import in_thread
from portside.errors import DeadlineExceeded, FailedPrecondition, NotFound, PortsideError, Unavailable
from portside.supervisor import leftovers
from portside.supervisor.bundles import Bundle
from portside.supervisor.connection import FOREVER, ShimConnection
from portside.supervisor.deadlines import Deadlines
from portside.supervisor.leftovers import Record
from portside.wire.codec import Message

log = logging.getLogger(__name__)

CREATE_TIMEOUT = 120.0
"""Seconds for Create, hooks included."""
CALL_TIMEOUT = 10.0
DELETE_TIMEOUT = 20.0
"""Seconds for Delete, which waits for streams and control groups."""
STATE_TIMEOUT = 2.0
"""Seconds for what our own record can answer too."""
SHUTDOWN_TIMEOUT = 5.0

Died = Callable[["ShimTask"], None]
_P = ParamSpec("_P")
_R = TypeVar("_R")
_AS_THEY_ARE = Deadlines()
_cleaners = ThreadPoolExecutor(4, thread_name_prefix="portside-leftovers")
"""For what may take many seconds, while every other task's short work goes on in the common pool."""


class ShimTask:
    """One task and its shim. Whoever makes it calls ``retire`` or ``close`` in the end."""

    def __init__(
        self, bundle: Bundle, connection: ShimConnection, shim_pidfd: int, died: Died,
        deadlines: Deadlines = _AS_THEY_ARE, *, shared: bool = False,
    ) -> None:  # fmt: skip
        """``shim_pidfd`` (-1: unknown) is owned; ``died`` is called once, if the shim dies before the task's end.

        A ``shared`` shim is a sandbox's, and not ours to end.
        """
        self.shared = shared
        self.namespace, self.id = bundle.namespace, bundle.id
        self.bundle = bundle
        self.connection = connection
        self.told: set[str] = set()
        """Exec ids (init: the task's id) whose exit has been told to subscribers."""
        self._pids: dict[str, int] = {}
        self._waits: dict[str, asyncio.Task[Exit]] = {}
        self._ended: dict[str, Exit] = {}
        self._gone = False
        self._died = died
        self._deadlines = deadlines
        self._dead: asyncio.Future[Record | None] | None = None
        self._pidfd = -1
        if shim_pidfd >= 0:
            self._pidfd = shim_pidfd
            asyncio.get_running_loop().add_reader(shim_pidfd, self._shim_ended)

    # Calls

    async def create(self, fields: Mapping[str, Any]) -> int:
        """Create, with the fields of a CreateTaskRequest; the pid of init."""
        answer = await self._call("Create", {"id": self.id, "bundle": self.bundle.path, **fields}, CREATE_TIMEOUT)
        self._pids[""] = answer["pid"]
        return self._pids[""]

    async def start(self, exec_id: str) -> int:
        """Start; the pid."""
        if self._dead is None:
            self._ended.pop(exec_id, None)  # of an earlier process with this id
        answer = await self._call("Start", self._name(exec_id), CREATE_TIMEOUT)
        self._pids[exec_id] = answer["pid"]
        return self._pids[exec_id]

    async def call(
        self, method: str, fields: Mapping[str, Any] | None = None, timeout: float = CALL_TIMEOUT
    ) -> Message:
        """Any other method; FailedPrecondition if the shim is dead."""
        return await self._call(method, {"id": self.id, **(fields or {})}, timeout)

    async def state(self, exec_id: str = "") -> Process:
        """The process now; from the record if the shim says nothing."""
        try:
            found = await self._call("State", self._name(exec_id), self._deadlines.state or STATE_TIMEOUT)
        except (DeadlineExceeded, Unavailable, ShimDead):
            record = await self._record(exec_id)
            return record.state(exec_id, self._ended.get(exec_id))
        io = TaskIO(found["stdin"], found["stdout"], found["stderr"], found["terminal"])
        self._pids[exec_id] = found["pid"]
        return Process(
            self.id, exec_id, found["pid"], Status(found["status"]), io, found["exit_status"],
            nanoseconds(found["exited_at"]),
        )  # fmt: skip

    async def wait(self, exec_id: str = "") -> Exit:
        """Returns when the process has ended. One call to the shim serves all who wait.

        NotFound if the task is gone before that, Unavailable if we are.
        """
        if exec_id in self._ended:
            return self._ended[exec_id]
        wait = self._waits.get(exec_id)
        if wait is None or wait.done():
            wait = self._waits[exec_id] = asyncio.create_task(self._wait(exec_id), name=f"wait {self.id} {exec_id}")
            wait.add_done_callback(functools.partial(self._waited, exec_id))
        await asyncio.wait([wait])  # Who stops to wait does not stop the others.
        if wait.cancelled():
            if self._gone:
                raise NotFound(f"process {exec_id or 'init'} of task {self.id}: the task is deleted")
            raise Unavailable(f"wait for task {self.id}: the daemon lets go of it")
        return wait.result()

    async def kill(self, number: int, exec_id: str, everyone: bool) -> None:
        """Send a signal; past the shim if it is mute and the signal is SIGKILL."""
        try:
            await self._call("Kill", {**self._name(exec_id), "signal": number, "all": everyone}, CALL_TIMEOUT)
        except ShimDead:
            raise NotFound(f"kill task {self.id}: process already finished") from None
        except DeadlineExceeded:
            record = await in_thread(Record.read, self.bundle.path)
            if number != signal.SIGKILL or record is None or exec_id not in record.processes:
                raise
            log.warning("task %s/%s: shim does not answer, killing past it", self.namespace, self.id)
            if not await _by_cleaner(leftovers.signal_process, record, number, exec_id):
                raise NotFound(f"kill task {self.id}: process already finished") from None

    async def delete(self, exec_id: str = "") -> Exit:
        """Remove a process; a mute shim whose first process is gone is ended and answered for, if it is no other's."""
        try:
            answer = await self._call("Delete", self._name(exec_id), DELETE_TIMEOUT)
            ended = Exit(answer["pid"], answer["exit_status"], nanoseconds(answer["exited_at"]))
        except (DeadlineExceeded, Unavailable) as error:
            record = await in_thread(Record.read, self.bundle.path)
            if record is None or record.alive() or self.shared:
                raise
            log.warning("task %s/%s: shim does not answer (%s), ending it", self.namespace, self.id, error)
            await _by_cleaner(leftovers.kill_shim, record)
            await self._bury()
            ended = await self._ended_of_dead(exec_id)
        except ShimDead:
            ended = await self._ended_of_dead(exec_id)
        self._ended.pop(exec_id, None)
        self._pids.pop(exec_id, None)
        if exec_id:
            self.told.discard(exec_id)
        return ended

    # The end of the shim

    @property
    def dead(self) -> bool:
        """Whether the shim is known to be dead."""
        return self._dead is not None

    async def retire(self) -> None:
        """The task is gone: let the shim end, and see that it does."""
        self._gone = True
        try:
            if self._dead is None and not self.shared:
                patience = self._deadlines.shutdown or SHUTDOWN_TIMEOUT
                await self.connection.call("Shutdown", {"id": self.id}, patience)
                if self._pidfd >= 0 and not await ended_within(self._pidfd, patience):
                    raise DeadlineExceeded("it stays")
        except PortsideError as error:
            if self._pidfd >= 0 and not await ended_within(self._pidfd, 0.0):
                log.warning("task %s/%s: shim does not end (%s), killing it", self.namespace, self.id, error)
                with contextlib.suppress(ProcessLookupError):  # It has ended, and init has seen that.
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        finally:
            await self.close()

    def retiring(self) -> None:
        """From now on the shim's end is expected."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)

    async def close(self) -> None:
        """Let go of the shim, which goes on."""
        self.retiring()
        waits = list(self._waits.values())
        self._waits.clear()
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await self.connection.close()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    async def bury(self) -> Record | None:
        """The shim is dead: clean what it left; its record, or None if it never had a task."""
        await self._bury()
        assert self._dead is not None
        return await asyncio.shield(self._dead)

    def _shim_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._dead is None:
            self._died(self)

    async def _bury(self) -> None:
        if self._dead is not None:
            await asyncio.shield(self._dead)
            return
        self._dead = asyncio.get_running_loop().create_future()
        record = None
        try:
            record = await in_thread(Record.read, self.bundle.path)
            if record is not None:
                log.warning("task %s/%s: its shim %d is dead", self.namespace, self.id, record.shim_pid)
                for exec_id in record.processes:
                    self._ended.setdefault(exec_id, record.exit(exec_id))
                await _by_cleaner(leftovers.clean, record)
            else:
                await _by_cleaner(leftovers.sweep, self.bundle.path, self.id)
        except (OSError, PortsideError, subprocess.SubprocessError) as error:
            log.error("task %s/%s: leftovers: %s", self.namespace, self.id, error)
        finally:
            self._dead.set_result(record)

    async def _call(self, method: str, fields: Mapping[str, Any], timeout: float) -> Message:
        if self._dead is not None:
            await asyncio.shield(self._dead)
            raise ShimDead(f"task {self.id}: its shim is dead")
        try:
            return await self.connection.call(method, fields, timeout)
        except Unavailable:
            if await self._is_dead():
                await self._bury()
                raise ShimDead(f"task {self.id}: its shim is dead") from None
            raise

    async def _is_dead(self) -> bool:
        if self._pidfd >= 0:
            # A lost connection and the end of the process are one event that comes in two parts.
            return await ended_within(self._pidfd, 0.5)
        record = await in_thread(Record.read, self.bundle.path)
        return record is None or not record.shim_alive()

    async def _wait(self, exec_id: str) -> Exit:
        while True:
            try:
                answer = await self._call("Wait", self._name(exec_id), FOREVER)
            except ShimDead:
                return await self._ended_of_dead(exec_id)
            except Unavailable:
                await asyncio.sleep(0.2)  # It is alive, so it will listen again.
                continue
            pid = self._pids.get(exec_id, 0)
            ended = self._ended[exec_id] = Exit(pid, answer["exit_status"], nanoseconds(answer["exited_at"]))
            return ended

    def _waited(self, exec_id: str, wait: asyncio.Task[Exit]) -> None:
        if self._waits.get(exec_id) is wait:
            del self._waits[exec_id]
        if not wait.cancelled():
            wait.exception()  # So that an error nobody waits for any more is not reported as lost.

    async def _record(self, exec_id: str) -> Record:
        record = await in_thread(Record.read, self.bundle.path)
        if record is None or exec_id not in record.processes:
            raise NotFound(f"process {exec_id or 'init'} of task {self.id}: not found")
        return record

    async def _ended_of_dead(self, exec_id: str) -> Exit:
        if exec_id not in self._ended:
            raise NotFound(f"process {exec_id or 'init'} of task {self.id}: not found")
        return self._ended[exec_id]

    def _name(self, exec_id: str) -> dict[str, Any]:
        return {"id": self.id, "exec_id": exec_id}


class ShimDead(FailedPrecondition):
    """The call needs a shim, and the shim is dead."""


def nanoseconds(timestamp: Mapping[str, Any] | None) -> int:
    """A google.protobuf.Timestamp as nanoseconds since 1970; None is 0."""
    return timestamp["seconds"] * 1_000_000_000 + timestamp["nanos"] if timestamp is not None else 0


async def ended_within(pidfd: int, timeout: float) -> bool:
    """Whether the process has ended, or does within ``timeout`` seconds."""
    loop = asyncio.get_running_loop()
    duplicate = os.dup(pidfd)  # The loop keeps one callback for a descriptor, and the original may have one.
    ended = loop.create_future()
    loop.add_reader(duplicate, _settle, ended)
    try:
        async with asyncio.timeout(max(timeout, 0.001)):
            await ended
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(duplicate)
        os.close(duplicate)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _by_cleaner(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    return await asyncio.get_running_loop().run_in_executor(_cleaners, lambda: function(*args, **kwargs))
