"""A task: one container with its first process and those added by exec.

The order in which things become known is fixed here: done, on record (``state.json``), then told; and for each process
create → start → exit → delete. What does not belong here: how a container is made (``runtime/``, or
``external.py`` for another binary), the bytes of calls (``service.py``). It is long because that order is to be read
in one place.
"""

from __future__ import annotations

import os
import time

from portside.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PortsideError,
    Unimplemented,
    from_oserror,
)
from portside.linux import signals
from portside.runtime.failure import RuntimeFailure
from portside.shim import beginnings, record
from portside.shim.external import ExternalContainer
from portside.shim.frozen import NotQuiet
from portside.shim.held import HeldContainer
from portside.shim.maker import no_undo
from portside.shim.oom import OomTeller
from portside.shim.process import CREATED, PAUSED, RUNNING, STOPPED, Process
from portside.shim.recipe import MAX_SPEC, parse_json
from portside.shim.rootfs import Rootfs
from portside.shim.stdio import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from portside.shim.beginnings import Begun
    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.recipe import Recipe
    from portside.shim.shared import Outcome, Shim

    Done = Callable[[int | PortsideError], None]
    Answered = Callable[[Any], None]
    """Gets what the container gave, or a PortsideError; called at once where our own runtime is asked."""


class Task:
    """A container under the shim's care.

    ``create`` and ``start`` take time and call back: with the pid, or with what went wrong.
    """

    __slots__ = (
        "_cleaning", "_container", "_ended", "_facts", "_oom", "_options", "_paused", "_request", "_rootfs", "_shim",
        "_started", "bundle", "id", "init", "processes",
    )  # fmt: skip

    def __init__(self, shim: Shim, request: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._shim = shim
        self._request = request
        self._options = options
        self.id: str = request["id"]
        self.bundle: str = request["bundle"]
        self._paused = self._cleaning = False
        self._facts: dict[str, Any] = {}
        self._oom = OomTeller(shim.loop, self._tell_oom)
        self._rootfs = Rootfs()
        self._started: Done | None = None
        self._ended: tuple[int, int] | None = None
        """Init's end (wait status, nanoseconds), while it is being started."""
        self._container: HeldContainer | ExternalContainer
        self.init = self._process("", request)
        self.processes: dict[str, Process] = {"": self.init}
        """By exec id; init under the empty one."""

    # Life

    def create(self, done: Done) -> None:
        """Make the container up to the point before execve. After a failure nothing is left."""
        if self._request["checkpoint"]:
            raise Unimplemented(f"create task {self.id}: from a checkpoint")
        streams = self.init.streams
        streams.prepare((self._options.get("io_uid", 0), self._options.get("io_gid", 0)))
        recipe = self._shim.recipe(self.id, self.bundle, self._request["rootfs"], self._options, self._shim)

        def begun(outcome: Begun | PortsideError) -> None:
            if isinstance(outcome, PortsideError):
                streams.close()
                done(outcome)
                return
            try:
                self._take(outcome)
                self._save()
            except (OSError, PortsideError) as error:  # The daemon ends the shim then, and what it left.
                done(from_oserror(error, f"create task {self.id}") if isinstance(error, OSError) else error)
                return
            done(self.init.pid)  # before the event: it is on record, and the client waits
            self._tell_created()

        try:
            beginnings.create(self._shim, recipe, streams, self._rootfs, begun)
        except BaseException:
            streams.close()
            raise

    def _take(self, begun: Begun) -> None:
        assert begun.container is not None
        self._container, self._facts = begun.container, begun.facts
        self._hold(self.init, begun)
        self.init.streams.started(begun.console, begun.facts["direct"])

    def _tell_created(self) -> None:
        request = self._request
        io = {name: request[name] for name in ("stdin", "stdout", "stderr", "terminal")}
        self._emit("create", "TaskCreate", bundle=self.bundle, rootfs=request["rootfs"], io=io, pid=self.init.pid)
        self._shim.loop.soon(self._watch_oom)  # There is time before Start, which is the next call.

    def start(self, exec_id: str, done: Done) -> None:
        """Let a process run. FailedPrecondition unless it is created."""
        process = self.process(exec_id)
        if process.status != CREATED or process.starting or (exec_id and process.pid):
            raise FailedPrecondition(f"start {self._name(exec_id)}: cannot start a process that is not just created")
        if exec_id:
            self._start_exec(process, done)
            return
        process.starting = True
        self._started = done
        try:
            process.streams.begin_input()
            beginnings.start(self._shim, self._recipe(), self._container, self._execve_done)
        except BaseException:
            process.starting, self._started = False, None
            if isinstance(self._container, HeldContainer):  # It may have been let go already, and nobody would hear it.
                self._kill_rest()
            raise

    def _recipe(self) -> Recipe:
        return self._shim.recipe(self.id, self.bundle, (), self._options, self._shim)

    def _run_late_hooks(self, kind: str, done: Callable[[PortsideError | None], None]) -> None:
        """What goes wrong with these is no failure."""
        container = self._container
        assert isinstance(container, HeldContainer)
        try:
            self._shim.make(lambda: self._recipe().late_hooks(container, kind), no_undo, lambda _: done(None))
        except OSError as error:
            self._shim.loop.on_error(error)
            done(None)

    def _execve_done(self, error: PortsideError | None) -> None:
        if error is None and self._facts["hooks"]:
            self._run_late_hooks("poststart", self._start_finished)
        else:
            step = f"start container {self.id}"
            self._start_finished(error.within(step) if isinstance(error, RuntimeFailure) else error)

    def _start_finished(self, error: PortsideError | None) -> None:
        done, self._started = self._started, None
        process = self.init
        process.starting = False
        if error is None and process.status == CREATED:
            process.status = RUNNING
            self._note()
        if done is not None:
            done(process.pid if error is None else error)
        if error is None:
            self._emit("start", "TaskStart", pid=process.pid)
        ended, self._ended = self._ended, None
        if ended is not None:
            self.process_ended(process, *ended)

    def exec(self, request: Mapping[str, Any]) -> None:
        """Add a process; ``start`` makes and runs it. AlreadyExists, InvalidArgument, FailedPrecondition."""
        exec_id = request["exec_id"]
        if not exec_id:
            raise InvalidArgument(f"exec in task {self.id}: no exec id")
        if exec_id in self.processes:
            raise AlreadyExists(f"exec {exec_id} in task {self.id}: already exists")
        if self.init.status == STOPPED:
            raise FailedPrecondition(f"exec {exec_id} in task {self.id}: cannot exec in a stopped container")
        spec = request["spec"]["value"] if request["spec"] else b""
        if len(spec) > MAX_SPEC or not spec.lstrip().startswith(b"{"):
            raise InvalidArgument(f"exec {exec_id} in task {self.id}: process is not a JSON object")
        self.processes[exec_id] = self._process(exec_id, request, spec)
        self._emit("exec-added", "TaskExecAdded", exec_id=exec_id)

    def process_ended(self, process: Process, wait_status: int, now_ns: int) -> None:
        """The reaper has it: move its last output, put it on record, then tell, all after a start that is not over."""
        if process is self.init and process.starting:
            self._ended = (wait_status, now_ns)
            return
        process.stopped(wait_status, now_ns)
        if process is self.init:
            self._paused = False
            self._oom.close()
            if self._facts["shared_pids"]:
                self._kill_rest()

        def report() -> None:
            process.close_console()
            self._note()
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
        if process.status not in (CREATED, STOPPED) or process.starting:
            raise FailedPrecondition(f"delete {self._name(exec_id)}: cannot delete a running process")

        def cleaned(outcome: PortsideError | None) -> None:
            try:
                if outcome is not None:
                    raise outcome
                answer = self._deleted(process)
                if process is self.init:
                    gone()
            except Exception as error:
                done(error)
            else:
                done(answer)

        def finished() -> None:
            if process is not self.init:
                cleaned(None)
                return
            try:
                self._clean_up(cleaned)
            except Exception as error:
                done(error)

        def killed(outcome: PortsideError | None) -> None:
            # Not found: it has ended by itself, and that will be told.
            if outcome is not None and not isinstance(outcome, NotFound) and ended in process.waiters:
                process.waiters.remove(ended)
                done(outcome)

        def ended(_process: Process) -> None:
            process.streams.finish(finished)

        if process.status == CREATED and process.pid:
            process.wait(ended)
            try:
                self._ask(lambda: self._container.kill(signals.SIGKILL), killed)
            except PortsideError as error:
                killed(error)
        elif process.pid:
            process.streams.finish(finished)
        else:
            finished()

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``."""
        if self._started is not None:
            raise NotQuiet
        rootfs, root_fds = self._rootfs.hand_over()
        held = self._container.freeze(ice) if isinstance(self._container, HeldContainer) else None
        return {
            "id": self.id,
            "bundle": self.bundle,
            "options": dict(self._options),
            "facts": self._facts,
            "paused": self._paused,
            "rootfs": [rootfs, [ice.put(fd) for fd in root_fds]],
            "container": held,
            "oom": self._oom.freeze(ice),
            "processes": [process.freeze(ice) for process in self.processes.values()],
        }

    @classmethod
    def thaw(cls, shim: Shim, ice: Thawing, values: Values) -> Task:
        """The task that was frozen."""
        task = cls.__new__(cls)
        task._shim, task._options, task._facts = shim, values["options"], values["facts"]
        task.id, task.bundle, task._paused = values["id"], values["bundle"], values["paused"]
        task._request, task._started, task._ended, task._cleaning = {}, None, None, False
        task._rootfs = Rootfs()
        rootfs, places = values["rootfs"]
        task._rootfs.take_over(rootfs, [ice.take(place) for place in places])
        if values["container"] is None:
            task._container = ExternalContainer.take_over(task.id, task.bundle, task._facts)
        else:
            pidfd, channel = (ice.take(place) for place in values["container"])
            task._container = HeldContainer.take_over(task.id, task.bundle, task._facts, pidfd, channel)
        task.processes = {}
        for frozen in values["processes"]:
            process = Process.thaw(ice, frozen, Streams.thaw(shim.loop, ice, frozen["streams"]))
            task.processes[process.exec_id] = process
            if process.pidfd >= 0:
                shim.by_pid[process.pid] = (task, process)
        task.init = task.processes[""]
        task._oom = OomTeller(shim.loop, task._tell_oom)
        task._oom.thaw(ice, values["oom"])
        return task

    def close(self) -> None:
        """Let go of everything, and leave the container to itself."""
        for process in self.processes.values():
            process.streams.close()
            process.close_console()
        self._oom.close()
        if isinstance(self._container, HeldContainer):
            self._container.close()

    # While it runs

    def kill(self, exec_id: str, number: int, everyone: bool, done: Answered) -> None:
        """Send a signal. NotFound once the process has ended."""
        process = self.process(exec_id)
        if exec_id:
            process.kill(number)
            done(None)
        elif process.status == STOPPED and not everyone:
            raise NotFound(f"kill {self._name('')}: process already finished")
        else:
            self._ask(lambda: self._container.kill(number, all=everyone), done)

    def pause(self, done: Answered) -> None:
        """Freeze the container. FailedPrecondition unless it runs."""
        if self.init.status != RUNNING or self._paused:
            raise FailedPrecondition(f"pause task {self.id}: it is not running")
        self._set_paused(True, done)

    def resume(self, done: Answered) -> None:
        """Undo ``pause``. FailedPrecondition unless it is paused."""
        if not self._paused:
            raise FailedPrecondition(f"resume task {self.id}: it is not paused")
        self._set_paused(False, done)

    def _set_paused(self, paused: bool, done: Answered) -> None:
        def answered(outcome: PortsideError | None) -> None:
            if outcome is None and self.init.status == RUNNING:
                self._paused = paused
                self._emit("paused" if paused else "resumed", "TaskPaused" if paused else "TaskResumed")
            done(outcome)

        self._ask(self._container.pause if paused else self._container.resume, answered)

    def pids(self, done: Answered) -> None:
        """Every process in the container, as pairs with the exec id of those that exec added."""

        def answered(outcome: list[int] | PortsideError) -> None:
            if not isinstance(outcome, PortsideError):
                execs = {
                    process.pid: process.exec_id for process in self.processes.values() if process.status == RUNNING
                }
                done([(pid, execs.get(pid, "")) for pid in outcome])
            else:
                done(outcome)

        self._ask(self._container.pids, answered)

    def update(self, resources: Mapping[str, Any] | None, done: Answered) -> None:
        """Change limits (a runtime-spec LinuxResources)."""
        limits = parse_json(resources["value"] if resources else b"", f"update task {self.id}: resources")
        self._ask(lambda: self._container.update(limits), done)

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

    def _process(self, exec_id: str, request: Mapping[str, Any], spec: bytes = b"") -> Process:
        io = (request["stdin"], request["stdout"], request["stderr"])
        return Process(exec_id, Streams(self._shim.loop, io, request["terminal"]), spec)

    def _hold(self, process: Process, begun: Begun) -> None:
        process.made(begun.pid, begun.pidfd, begun.console)
        self._shim.by_pid[begun.pid] = (self, process)

    def _start_exec(self, process: Process, done: Done) -> None:
        if self.init.status != RUNNING or self._paused:
            state = "paused" if self._paused else "stopped" if self.init.status == STOPPED else "created"
            raise FailedPrecondition(f"start {self._name(process.exec_id)}: cannot exec in a {state} container")
        streams = process.streams
        try:
            streams.prepare()
        except PortsideError:
            self._exec_failed(process)
            raise
        process.starting = True

        def begun(outcome: Begun | PortsideError) -> None:
            process.starting = False
            if isinstance(outcome, PortsideError):
                self._exec_failed(process)
                done(outcome)
                return
            self._hold(process, outcome)
            process.status = RUNNING
            process.spec = b""
            try:
                streams.started(outcome.console)
                streams.begin_input()
            except OSError as error:
                process.kill(signals.SIGKILL)
                done(from_oserror(error, f"start {self._name(process.exec_id)}"))
                return
            self._note()
            done(process.pid)
            self._emit("exec-started", "TaskExecStarted", exec_id=process.exec_id, pid=process.pid)

        try:
            beginnings.execute(
                self._shim, self._recipe(), self._container, self._facts, process.spec, streams, begun
            )  # fmt: skip
        except BaseException:
            process.starting = False
            self._exec_failed(process)
            raise

    def _exec_failed(self, process: Process) -> None:
        """As with containerd, a process that could not be started counts as ended, and is there to be deleted."""
        process.streams.close()
        process.spec = b""
        process.status, process.exit_status, process.exited_ns = STOPPED, 255, time.time_ns()
        process.tell_waiters()

    def _deleted(self, process: Process) -> dict[str, Any]:
        if self.processes.get(process.exec_id) is not process:
            raise NotFound(f"delete {self._name(process.exec_id)}: not found")
        if process is not self.init:
            del self.processes[process.exec_id]
            self._note()
            return {"pid": process.pid, **process.exit()}
        self._rootfs.unmount_soon(self._shim.loop)
        for other in tuple(self.processes.values()):  # closing its streams may answer who waits to delete it
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

    def _ask(self, work: Callable[[], list[int] | None], done: Answered) -> None:
        """Have the container do something: a command of another runtime in a child, lest it hold up everybody."""

        def made(outcome: Outcome) -> None:
            done(outcome if isinstance(outcome, PortsideError) else outcome[0]["answer"])

        if isinstance(self._container, HeldContainer):
            done(work())
        else:
            self._shim.make(lambda: ({"answer": work()}, []), no_undo, made)

    def _clean_up(self, done: Answered) -> None:
        """Remove what is left of the container, and run the hooks after its end."""
        if self._cleaning:
            raise FailedPrecondition(f"delete task {self.id}: it is being deleted")

        def cleaned(outcome: PortsideError | None) -> None:
            self._cleaning = False
            done(outcome)

        def finish(outcome: PortsideError | None) -> None:
            if outcome is None and self._facts["hooks"]:
                self._run_late_hooks("poststop", cleaned)
            else:
                cleaned(outcome)

        self._cleaning = True
        try:
            self._ask(lambda: self._container.delete(force=True), finish)
        except BaseException:
            self._cleaning = False
            raise

    def _kill_rest(self) -> None:
        try:
            self._ask(lambda: self._container.kill(signals.SIGKILL, all=True), lambda _: None)
        except (OSError, PortsideError):
            pass  # None is left.

    def _watch_oom(self) -> None:
        cgroup = self._container.cgroup
        if self.init.status != STOPPED and cgroup is not None:
            self._oom.watch(cgroup)

    def _tell_oom(self) -> None:
        self._emit("oom", "TaskOOM")

    def _note(self) -> None:
        """Save; but a disk that is full keeps nobody from being told."""
        try:
            self._save()
        except OSError as error:
            self._shim.loop.on_error(error)

    def _save(self) -> None:
        cgroup = getattr(self._container, "cgroup", None)
        record.write(
            self.bundle,
            {
                "version": record.VERSION,
                "namespace": self._shim.namespace,
                "id": self.id,
                "shim": {"pid": self._shim.pid, "start": record.start_time(self._shim.pid)},
                "cgroup": getattr(cgroup, "path", ""),
                "runtime": getattr(self._container, "command", []),
                "processes": {name: process.record() for name, process in self.processes.items() if process.pid},
            },
        )

    def _emit(self, topic: str, name: str, **fields: Any) -> None:
        self._shim.outbox.emit(f"/tasks/{topic}", name, {"container_id": self.id, **fields})

    def _name(self, exec_id: str) -> str:
        return f"exec {exec_id} in task {self.id}" if exec_id else f"task {self.id}"
