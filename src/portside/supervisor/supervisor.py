"""All tasks of one engine: starting shims, adopting those that are there, hearing their events.

    start     directories, the socket for events, the zygote; then leftovers are adopted in the background
    adopt     each bundle by itself, with deadlines: a shim that answers becomes a task, one that is dead leaves a task
              that is answered from its record until it is deleted, one that never had a task is cleaned away
    close     lets go of everything; shims and containers go on, and the next owner adopts them

Nothing waits for adoption but calls for the task in question. What belongs here: which tasks there are, and events.
What does not: one task's calls (``task.py``), and what clients may ask for (``engine/tasks.py``).

Foreign shims (runtime v2 binaries) would be another way to get from a bundle to a listening address, in
``_start_shim``; everything after that address is containerd's own protocol.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from portside.core.anymessage import AnyMessage
from portside.core.events import Envelope
from portside.core.tasks import Exit
from portside.core.work import in_thread
from portside.errors import AlreadyExists, NotFound, PortsideError
from portside.shim.config import Config
from portside.shim.outbox import SEQUENCE_KEY, SERVICE, timestamp
from portside.shim.sockets import connectable
from portside.supervisor import leftovers
from portside.supervisor.bundles import Bundle, Bundles
from portside.supervisor.connection import ShimConnection
from portside.supervisor.deadlines import Deadlines
from portside.supervisor.leftovers import Record
from portside.supervisor.sandbox import ShimSandbox
from portside.supervisor.task import ShimTask, nanoseconds
from portside.supervisor.zygote import Zygote
from portside.wire.codec import decode, encode
from portside.wire.tables import containerd_events
from portside.wire.tables.containerd_services_events_ttrpc_v1 import ForwardRequest
from portside.wire.ttrpc.server import TtrpcServer

log = logging.getLogger(__name__)

ADOPT_TIMEOUT = 3.0
"""Seconds for a shim's answer when it is adopted; a mute one is a task all the same."""
ADOPT_WIDTH = 16
"""Shims that are asked at the same time."""
MAX_SHIMS_HEARD = 1 << 14
"""Shims whose last event's number is remembered."""

_Key = tuple[str, str]


class Supervisor:
    """The tasks of all namespaces. ``start`` before use, ``close`` in the end; both once."""

    def __init__(
        self, state: str, root: str, forward: Callable[[Envelope], None], *, python: str = sys.executable,
        cache_dir: str = "", deadlines: Deadlines | None = None,
    ) -> None:  # fmt: skip
        """``forward`` gets every event of a task, in the loop; ``cache_dir`` (default: in ``root``) is for runtimes."""
        self._deadlines = deadlines or Deadlines()
        self._bundles = Bundles(state, root)
        self._forward = forward
        self._zygote = Zygote(os.path.abspath(state), python)
        self._cache_dir = cache_dir or f"{os.path.abspath(root)}/io.containerd.runtime.v2.task.cache"
        self._events = f"{os.path.abspath(state)}/events.sock"
        self._server = TtrpcServer({(SERVICE, "Forward"): self._event})
        self._tasks: dict[_Key, ShimTask] = {}
        self._adopting: dict[_Key, asyncio.Task[None]] = {}
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Be ready for calls; leftovers are being adopted when it returns. OSError or errors of ours if it cannot."""
        found = await in_thread(self._prepare)
        gate = asyncio.Semaphore(ADOPT_WIDTH)
        for bundle in found:
            adoption = self._spawn(self._adopt(bundle, gate), f"adopt {bundle.namespace}/{bundle.id}")
            self._adopting[bundle.namespace, bundle.id] = adoption
        path, directory = connectable(self._events)
        try:
            await self._server.start(path)
        finally:
            if directory >= 0:
                os.close(directory)
        await self._zygote.start()

    async def close(self) -> None:
        """Let go; shims and containers go on."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(task.close() for task in self._tasks.values()), return_exceptions=True)
        self._tasks.clear()
        await self._server.close()
        await self._zygote.close()

    @property
    def zygote_pid(self) -> int:
        """Of the zygote; 0 while there is none."""
        return self._zygote.pid

    @property
    def forward_handlers(self) -> Mapping[tuple[str, str], Any]:
        """For a ttrpc server of the daemon that hears foreign shims too."""
        return {(SERVICE, "Forward"): self._event}

    async def create(
        self, namespace: str, id: str, spec: bytes, fields: Mapping[str, Any], sandbox: ShimSandbox | None = None
    ) -> int:
        """A shim, and in it a task from ``spec`` and the fields of a CreateTaskRequest; the pid of init.

        With ``sandbox`` the task is made in the shim that this is. AlreadyExists; whatever the shim says. After a
        failure nothing is left. Goes on if the caller is cancelled.
        """
        await self._adopted(namespace, id)
        if (namespace, id) in self._tasks:
            raise AlreadyExists(f"task {id}: already exists")
        making = self._spawn(self._create(namespace, id, spec, fields, sandbox), f"create {namespace}/{id}")
        return await asyncio.shield(making)

    async def task(self, namespace: str, id: str) -> ShimTask:
        """NotFound."""
        await self._adopted(namespace, id)
        try:
            return self._tasks[namespace, id]
        except KeyError:
            raise NotFound(f"task {id}: not found") from None

    async def tasks(self, namespace: str) -> list[ShimTask]:
        """All of a namespace."""
        for key in [key for key in self._adopting if key[0] == namespace]:
            await self._adopted(*key)
        return [task for (owner, _), task in self._tasks.items() if owner == namespace]

    async def delete(self, task: ShimTask, exec_id: str = "") -> Exit:
        """Remove a process; with init the task, its shim and its bundle."""
        was_dead = task.dead
        ended = await task.delete(exec_id)
        if not exec_id and self._tasks.get((task.namespace, task.id)) is task:
            del self._tasks[task.namespace, task.id]
            task.retiring()
            aside = await in_thread(self._bundles.set_aside, task.bundle)
            if was_dead or task.dead:
                self._tell_exits(task, {"": ended})
                fields = {"pid": ended.pid, "exit_status": ended.status, "exited_at": timestamp(ended.exited_ns)}
                self._tell(task.namespace, "delete", "TaskDelete", {"container_id": task.id, **fields})
            self._spawn(self._retire(task, aside), f"retire {task.namespace}/{task.id}")
        return ended

    # Making

    async def _create(
        self, namespace: str, id: str, spec: bytes, fields: Mapping[str, Any], sandbox: ShimSandbox | None
    ) -> int:
        if sandbox is None:
            task = await self._start_shim(namespace, id, spec)
        else:
            task = await self._join_shim(namespace, id, spec, sandbox)
        try:
            pid = await task.create(fields)
        except BaseException:
            await task.retire()
            await self._sweep(task, task.bundle.path)
            await in_thread(self._bundles.remove, task.bundle)
            raise
        self._tasks[namespace, id] = task
        return pid

    async def spawn_shim(self, bundle: Bundle, listener: socket.socket, address: str) -> int:
        """A shim of ours for ``bundle``, whoever keeps that, listening on ``listener``: a pidfd, the caller's."""
        config = Config(bundle.namespace, bundle.id, bundle.path, address, self._events, self._cache_dir)
        _, pidfd = await self._zygote.spawn(config, listener)
        return pidfd

    async def _start_shim(self, namespace: str, id: str, spec: bytes) -> ShimTask:
        """A bundle, and a shim that listens: our own, from the zygote."""
        bundle, listener, address = await in_thread(self._bundles.create, namespace, id, spec)
        try:
            pidfd = await self.spawn_shim(bundle, listener, address)
        except BaseException:
            await in_thread(self._bundles.remove, bundle)
            raise
        finally:
            listener.close()
        return ShimTask(bundle, ShimConnection(address, namespace), pidfd, self._shim_died, self._deadlines)

    async def _join_shim(self, namespace: str, id: str, spec: bytes, sandbox: ShimSandbox) -> ShimTask:
        """A bundle for a task in a shim that is there."""
        pidfd = await sandbox.pidfd()
        try:
            bundle = await in_thread(self._bundles.create_in, namespace, id, spec, sandbox.bundle.id, sandbox.address)
        except BaseException:
            os.close(pidfd)
            raise
        connection = ShimConnection(sandbox.address, namespace)
        return ShimTask(bundle, connection, pidfd, self._shim_died, self._deadlines, shared=True)

    async def _retire(self, task: ShimTask, aside: str) -> None:
        await task.retire()
        await in_thread(self._bundles.finish, "" if task.shared else task.connection.address, aside)

    async def _retire_unmade(self, task: ShimTask, aside: str) -> None:
        """One that never had a task, though it may have been about to."""
        await task.retire()
        await self._sweep(task, aside)
        await in_thread(self._bundles.finish, "" if task.shared else task.connection.address, aside)

    async def _sweep(self, task: ShimTask, bundle: str) -> None:
        try:
            await in_thread(leftovers.sweep, bundle, task.id)
        except (OSError, PortsideError) as error:
            log.error("task %s/%s: leftovers: %s", task.namespace, task.id, error)

    # Adopting

    def _prepare(self) -> list[Bundle]:
        self._bundles.prepare()
        os.makedirs(self._cache_dir, 0o700, exist_ok=True)
        return self._bundles.list()

    async def _adopt(self, bundle: Bundle, gate: asyncio.Semaphore) -> None:
        key = (bundle.namespace, bundle.id)
        try:
            async with gate:
                await self._adopt_one(bundle)
        except (PortsideError, OSError) as error:
            log.error("task %s/%s: cannot be adopted: %s", *key, error)
        finally:
            self._adopting.pop(key, None)

    async def _adopt_one(self, bundle: Bundle) -> None:
        address, record = await in_thread(lambda: (bundle.address, Record.read(bundle.path)))
        shared = bool(await in_thread(lambda: bundle.sandbox))
        connection = ShimConnection(address, bundle.namespace)
        pidfd = _shim_pidfd(record)
        task = ShimTask(bundle, connection, pidfd, self._shim_died, self._deadlines, shared=shared)
        has_task = record is not None
        try:
            answer = await task.connection.call("Connect", {"id": bundle.id}, self._deadlines.load or ADOPT_TIMEOUT)
            has_task = answer["task_pid"] != 0
        except PortsideError as error:
            log.warning("task %s/%s: shim: %s", bundle.namespace, bundle.id, error)
            if record is None or not record.shim_alive():
                self._spawn(self._bury(task), f"bury {bundle.namespace}/{bundle.id}")
        if has_task:
            self._tasks[bundle.namespace, bundle.id] = task
        else:
            aside = await in_thread(self._bundles.set_aside, bundle)
            self._spawn(self._retire_unmade(task, aside), f"retire {bundle.namespace}/{bundle.id}")

    async def _adopted(self, namespace: str, id: str) -> None:
        adoption = self._adopting.get((namespace, id))
        if adoption is not None:
            await asyncio.wait([adoption])

    # Dead shims

    def _shim_died(self, task: ShimTask) -> None:
        self._spawn(self._bury(task), f"bury {task.namespace}/{task.id}")

    async def _bury(self, task: ShimTask) -> None:
        """Clean what the shim left, and tell of exits that nobody has told of."""
        record = await task.bury()
        if record is not None:
            self._tell_exits(task, {name: record.exit(name) for name in record.processes})

    def _tell_exits(self, task: ShimTask, exits: Mapping[str, Exit]) -> None:
        for exec_id, ended in sorted(exits.items(), reverse=True):  # execs first, init's end is the last
            name = exec_id or task.id
            if name not in task.told:
                task.told.add(name)
                fields = {"container_id": task.id, "id": name, "pid": ended.pid, "exit_status": ended.status}
                self._tell(task.namespace, "exit", "TaskExit", {**fields, "exited_at": timestamp(ended.exited_ns)})

    # Events

    def _tell(self, namespace: str, topic: str, name: str, fields: Mapping[str, Any]) -> None:
        """An event that no shim can tell of any more."""
        event = AnyMessage(f"containerd.events.{name}", encode(getattr(containerd_events, name), fields))
        self._forward(Envelope(time.time_ns(), namespace, f"/tasks/{topic}", event))

    async def _event(self, payload: bytes, metadata: Mapping[str, str]) -> bytes:
        """Events/Forward. Nothing is awaited before the event is passed on, which keeps the shim's order."""
        if self._is_new(metadata.get(SEQUENCE_KEY, "")):
            envelope = decode(ForwardRequest, payload)["envelope"]
            event = envelope["event"] if envelope is not None else None
            if envelope is None or event is None:
                return b""
            passed = AnyMessage(event["type_url"], event["value"])
            if passed.type_name == "containerd.events.TaskExit":
                self._note_exit(envelope["namespace"], passed.value)
            self._forward(
                Envelope(nanoseconds(envelope["timestamp"]), envelope["namespace"], envelope["topic"], passed)
            )
        return b""

    def _note_exit(self, namespace: str, value: bytes) -> None:
        fields = decode(containerd_events.TaskExit, value)
        task = self._tasks.get((namespace, fields["container_id"]))
        if task is not None:
            task.told.add(fields["id"])

    def _is_new(self, sequence: str) -> bool:
        """Whether this event has not come before: a shim sends again what it has no acknowledgement for."""
        shim, _, number = sequence.rpartition(":")
        if not shim or not number.isdecimal():
            return True
        if int(number) <= self._heard.get(shim, -1):
            return False
        self._heard[shim] = int(number)
        self._heard.move_to_end(shim)
        if len(self._heard) > MAX_SHIMS_HEARD:
            self._heard.popitem(last=False)
        return True

    # Background work

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, PortsideError):
            log.error("%s: %s", task.get_name(), error, exc_info=error)


def _shim_pidfd(record: Record | None) -> int:
    """A pidfd of the recorded shim, the caller's; -1 if it is gone, or a record says nothing of it."""
    if record is None or record.shim_pid <= 0:
        return -1
    try:
        fd = os.pidfd_open(record.shim_pid)
    except OSError:
        return -1
    if not record.shim_alive():
        os.close(fd)
        return -1
    return fd
