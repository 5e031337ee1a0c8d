"""A task: one container with its first process and those added by exec.

The order in which things become known is fixed here: done, on record (``state.json``), event, answer; and for each
process create → start → exit → delete. What does not belong here: how a container is made (``runtime/``, or
``external.py`` for another binary), the bytes of calls (``service.py``).
"""

from __future__ import annotations

import json
import os
import signal
import time

from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PortsideError, Unimplemented
from portside.runtime.container import Container, Stdio
from portside.shim import record
from portside.shim.external import ExternalContainer
from portside.shim.process import CREATED, PAUSED, RUNNING, STOPPED, Process
from portside.shim.rootfs import Rootfs
from portside.shim.stdio import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

    from portside.linux.cgroups.oom import OomWatch
    from portside.shim.loop import Loop
    from portside.shim.outbox import Outbox

MAX_SPEC: Final = 64 << 20
"""Bytes of a ``config.json``."""


class Shim:
    """What the tasks of a shim share: namespace, loop, outbox, and who has which pid. Set up once, in ``main.py``."""

    __slots__ = ("by_pid", "cache_dir", "loop", "namespace", "outbox")

    def __init__(self, loop: Loop, outbox: Outbox, namespace: str, cache_dir: str) -> None:
        self.loop = loop
        self.outbox = outbox
        self.namespace = namespace
        self.cache_dir = cache_dir
        """Where compiled seccomp filters are kept; empty for nowhere."""
        self.by_pid: dict[int, tuple[Task, Process]] = {}

    def reap(self) -> None:
        """Collect every child that has ended; orphans of a container too, of which nobody asks."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            known = self.by_pid.pop(pid, None)
            if known is not None:
                known[0].process_ended(known[1], status)


class Task:
    """A container under the shim's care."""

    __slots__ = (
        "_container", "_oom", "_paused", "_request", "_rootfs", "_shared_pids", "_shim", "bundle", "id", "init",
        "processes",
    )  # fmt: skip

    def __init__(self, shim: Shim, request: Mapping[str, Any]) -> None:
        self._shim = shim
        self._request = request
        self.id: str = request["id"]
        self.bundle: str = request["bundle"]
        self._paused = False
        self._shared_pids = False
        self._oom: OomWatch | None = None
        self._rootfs = Rootfs()
        self._container: Container | ExternalContainer
        self.init = self._process("", request)
        self.processes: dict[str, Process] = {"": self.init}
        """By exec id; init under the empty one."""

    # Life

    def create(self, options: Mapping[str, Any]) -> int:
        """Make the container up to the point before execve; its pid. After a failure nothing is left."""
        if self._request["checkpoint"]:
            raise Unimplemented(f"create task {self.id}: from a checkpoint")
        spec = self._read_spec()
        process = spec.get("process") or {}
        namespaces = {
            entry.get("type"): entry.get("path") for entry in (spec.get("linux") or {}).get("namespaces") or ()
        }
        self._shared_pids = "pid" not in namespaces or bool(namespaces["pid"])
        user = (process.get("user") or {}).get("uid") or 0
        owner = (options.get("io_uid", 0), options.get("io_gid", 0))
        direct = not (self._shared_pids or "user" in namespaces or user or owner != (0, 0))
        streams = self.init.streams
        try:
            stdio = self._stdio(streams, direct, owner, process)
            self._rootfs.mount(self._request["rootfs"], self.bundle, visible=bool(options.get("binary_name")))
            self._container = container = self._make(spec, stdio, options)
            made = container.init
            self.init.made(made.pid, made.pidfd, made.console)
            self._shim.by_pid[made.pid] = (self, self.init)
            streams.started(made.console)
        except BaseException:
            streams.close()
            self._rootfs.unmount()
            raise
        self._save()
        request = self._request
        io = {name: request[name] for name in ("stdin", "stdout", "stderr", "terminal")}
        self._emit("create", "TaskCreate", bundle=self.bundle, rootfs=request["rootfs"], io=io, pid=self.init.pid)
        self._shim.loop.soon(self._watch_oom)  # There is time before Start, which is the next call.
        return self.init.pid

    def start(self, exec_id: str) -> int:
        """Let a process run; its pid. FailedPrecondition unless it is created."""
        process = self.process(exec_id)
        if process.status != CREATED or (exec_id and process.pid):
            raise FailedPrecondition(f"start {self._name(exec_id)}: cannot start a process that is not just created")
        if exec_id:
            return self._start_exec(process)
        self._container.start()
        process.status = RUNNING
        self._emit("start", "TaskStart", pid=process.pid)
        return process.pid

    def exec(self, request: Mapping[str, Any]) -> None:
        """Add a process; ``start`` makes and runs it. AlreadyExists, InvalidArgument, FailedPrecondition."""
        exec_id = request["exec_id"]
        if not exec_id:
            raise InvalidArgument(f"exec in task {self.id}: no exec id")
        if exec_id in self.processes:
            raise AlreadyExists(f"exec {exec_id} in task {self.id}: already exists")
        if self.init.status == STOPPED:
            raise FailedPrecondition(f"exec {exec_id} in task {self.id}: cannot exec in a stopped container")
        spec = _parse_json(request["spec"], f"exec {exec_id} in task {self.id}: process")
        self.processes[exec_id] = self._process(exec_id, request, spec)
        self._emit("exec-added", "TaskExecAdded", exec_id=exec_id)

    def process_ended(self, process: Process, wait_status: int) -> None:
        """The reaper has it: move its last output, put it on record, then tell."""
        process.stopped(wait_status, time.time_ns())
        if process is self.init:
            self._paused = False
            self._unwatch_oom()
            if self._shared_pids:
                self._kill_rest()

        def report() -> None:
            process.close_console()
            self._save()
            self._emit("exit", "TaskExit", id=process.exec_id or self.id, pid=process.pid, **process.exit())
            process.tell_waiters()

        process.streams.exited(report)

    def delete(
        self, exec_id: str, done: Callable[[dict[str, Any] | Exception], None], gone: Callable[[], None]
    ) -> None:
        """Remove a process that is stopped or was never started; ``done`` gets the answer or what went wrong.

        ``gone`` is called first if this was init, whose end is the task's. FailedPrecondition if it runs.
        """
        process = self.process(exec_id)
        if process.status not in (CREATED, STOPPED):
            raise FailedPrecondition(f"delete {self._name(exec_id)}: cannot delete a running process")

        def finished() -> None:
            try:
                answer = self._deleted(process)
                if process is self.init:
                    gone()
            except Exception as error:
                done(error)
            else:
                done(answer)

        if process.status == CREATED and process.pid:
            process.wait(lambda _: process.streams.finish(finished))
            self._container.kill(signal.SIGKILL)
        elif process.pid:
            process.streams.finish(finished)
        else:
            finished()

    # While it runs

    def kill(self, exec_id: str, number: int, everyone: bool) -> None:
        """Send a signal. NotFound once the process has ended."""
        process = self.process(exec_id)
        if exec_id:
            process.kill(number)
        elif process.status == STOPPED and not everyone:
            raise NotFound(f"kill {self._name('')}: process already finished")
        else:
            self._container.kill(number, all=everyone)

    def pause(self) -> None:
        """Freeze the container. FailedPrecondition unless it runs."""
        if self.init.status != RUNNING or self._paused:
            raise FailedPrecondition(f"pause task {self.id}: it is not running")
        self._container.pause()
        self._paused = True
        self._emit("paused", "TaskPaused")

    def resume(self) -> None:
        """Undo ``pause``. FailedPrecondition unless it is paused."""
        if not self._paused:
            raise FailedPrecondition(f"resume task {self.id}: it is not paused")
        self._container.resume()
        self._paused = False
        self._emit("resumed", "TaskResumed")

    def pids(self) -> list[tuple[int, str]]:
        """Every process in the container, with the exec id of those that exec added."""
        execs = {process.pid: process.exec_id for process in self.processes.values() if process.status == RUNNING}
        return [(pid, execs.get(pid, "")) for pid in self._container.pids()]

    def update(self, resources: Mapping[str, Any] | None) -> None:
        """Change limits (a runtime-spec LinuxResources)."""
        self._container.update(_parse_json(resources, f"update task {self.id}: resources"))

    def stats(self) -> tuple[str, dict[str, Any]]:
        """``v1`` or ``v2``, and the fields of its Metrics message. FailedPrecondition once it has ended."""
        if self.init.status == STOPPED:
            raise FailedPrecondition(f"stats of task {self.id}: it has ended")
        return self._container.stats()

    def state(self, exec_id: str) -> dict[str, Any]:
        """The fields of a StateResponse."""
        process = self.process(exec_id)
        state = {"id": self.id, "bundle": self.bundle, **process.state()}
        if self._paused and process.status == RUNNING:
            state["status"] = PAUSED
        return state

    def process(self, exec_id: str) -> Process:
        """NotFound."""
        try:
            return self.processes[exec_id]
        except KeyError:
            raise NotFound(f"exec {exec_id} in task {self.id}: not found") from None

    # Inside

    def _process(self, exec_id: str, request: Mapping[str, Any], spec: dict[str, Any] | None = None) -> Process:
        io = (request["stdin"], request["stdout"], request["stderr"])
        return Process(exec_id, Streams(self._shim.loop, io, request["terminal"]), spec)

    def _read_spec(self) -> dict[str, Any]:
        fd = os.open(f"{self.bundle}/config.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        return _parse_json({"value": data}, f"create task {self.id}: config.json")

    def _make(self, spec: dict[str, Any], stdio: Stdio, options: Mapping[str, Any]) -> Container | ExternalContainer:
        flags = {
            "no_pivot": options.get("no_pivot_root", False),
            "no_new_keyring": options.get("no_new_keyring", False),
            "systemd_cgroup": options.get("systemd_cgroup", False),
        }
        binary = options.get("binary_name", "")
        if binary:
            root = f"{options.get('root') or '/run/portside/runtime'}/{self._shim.namespace}"
            return ExternalContainer.create(self.id, self.bundle, stdio, binary=binary, root=root, **flags)
        fd, path = self._rootfs.fd, self._rootfs.path
        return Container.create(
            self.id, self.bundle, spec, stdio, rootfs_fd=fd, rootfs=path, cache_dir=self._shim.cache_dir, **flags
        )

    def _stdio(self, streams: Streams, direct: bool, owner: tuple[int, int], process: Mapping[str, Any]) -> Stdio:
        stdin, stdout, stderr = streams.prepare(direct=direct, owner=owner)
        size = process.get("consoleSize") or {}
        return Stdio(
            stdin, stdout, stderr, terminal=streams.terminal, width=size.get("width", 0), height=size.get("height", 0)
        )

    def _start_exec(self, process: Process) -> int:
        if self.init.status != RUNNING or self._paused:
            state = "paused" if self._paused else "stopped" if self.init.status == STOPPED else "created"
            raise FailedPrecondition(f"start {self._name(process.exec_id)}: cannot exec in a {state} container")
        streams = process.streams
        spec = process.spec or {}
        try:
            made = self._container.exec(spec, self._stdio(streams, False, (0, 0), spec))
            process.made(made.pid, made.pidfd, made.console)
            self._shim.by_pid[made.pid] = (self, process)
            streams.started(made.console)
        except BaseException:
            streams.close()
            # As with containerd, a process that could not be started counts as ended, and is there to be deleted.
            process.status, process.exit_status, process.exited_ns = STOPPED, 255, time.time_ns()
            process.tell_waiters()
            raise
        process.status = RUNNING
        process.spec = None
        self._emit("exec-started", "TaskExecStarted", exec_id=process.exec_id, pid=process.pid)
        return process.pid

    def _deleted(self, process: Process) -> dict[str, Any]:
        if self.processes.get(process.exec_id) is not process:
            raise NotFound(f"delete {self._name(process.exec_id)}: not found")
        if process is not self.init:
            del self.processes[process.exec_id]
            self._save()
            return {"pid": process.pid, **process.exit()}
        self._container.delete(force=True)
        self._rootfs.unmount_soon(self._shim.loop)
        for other in self.processes.values():
            self._shim.by_pid.pop(other.pid, None)
            if other is not process:
                other.streams.close()
                other.close_console()
        self.processes.clear()
        try:
            os.unlink(f"{self.bundle}/{record.NAME}")
        except OSError:
            pass  # The bundle is the daemon's, who may have removed it.
        self._emit("delete", "TaskDelete", pid=process.pid, **process.exit())
        return {"pid": process.pid, **process.exit()}

    def _kill_rest(self) -> None:
        try:
            self._container.kill(signal.SIGKILL, all=True)
        except (OSError, PortsideError):
            pass  # None is left.

    def _watch_oom(self) -> None:
        cgroup = self._container.cgroup
        if self.init.status == STOPPED or cgroup is None:
            return
        try:
            self._oom = watch = cgroup.oom_watch()
        except (OSError, PortsideError):
            return  # Without a memory controller nothing can tell.
        self._shim.loop.watch(watch.fileno(), watch.events, self._oom_happened)

    def _oom_happened(self, _ready: int) -> None:
        watch = self._oom
        if watch is not None and watch.kills():
            self._emit("oom", "TaskOOM")
        if watch is not None and watch.gone:
            self._unwatch_oom()

    def _unwatch_oom(self) -> None:
        watch, self._oom = self._oom, None
        if watch is not None:
            if watch.kills():
                self._emit("oom", "TaskOOM")
            self._shim.loop.forget(watch.fileno())
            watch.close()

    def _save(self) -> None:
        cgroup = getattr(self._container, "cgroup", None)
        record.write(
            self.bundle,
            {
                "version": record.VERSION,
                "namespace": self._shim.namespace,
                "id": self.id,
                "shim": {"pid": os.getpid(), "start": record.start_time(os.getpid())},
                "cgroup": getattr(cgroup, "path", ""),
                "runtime": getattr(self._container, "command", []),
                "processes": {name: process.record() for name, process in self.processes.items() if process.pid},
            },
        )

    def _emit(self, topic: str, name: str, **fields: Any) -> None:
        self._shim.outbox.emit(f"/tasks/{topic}", name, {"container_id": self.id, **fields})

    def _name(self, exec_id: str) -> str:
        return f"exec {exec_id} in task {self.id}" if exec_id else f"task {self.id}"


def _parse_json(any_message: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    data = any_message["value"] if any_message else b""
    try:
        if len(data) > MAX_SPEC:
            raise ValueError(f"{len(data)} bytes")
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not JSON that makes sense: {error}") from None
    return value
