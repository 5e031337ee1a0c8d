"""The sandbox that a shim can be: containerd.runtime.sandbox.v1.Sandbox.

A shim becomes one sandbox by CreateSandbox; it then stays, with or without tasks, until ShutdownSandbox. There is no
process for it but the shim itself: what the containers of a pod share (a network namespace) is made by whoever asks
for the sandbox. Tasks are created in it by the task service on the same socket, and are ended with it.

    CreateSandbox → not ready → StartSandbox → ready → StopSandbox, which ends its tasks → not ready, for good

Source: containerd's api/runtime/sandbox/v1/sandbox.proto.
"""

from __future__ import annotations

import os
import time

from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PortsideError, Unimplemented
from portside.linux import signals
from portside.shim.frozen import NotQuiet
from portside.shim.outbox import timestamp
from portside.shim.process import CREATED, STOPPED
from portside.shim.rootfs import Rootfs
from portside.shim.rpc import Call
from portside.wire.codec import decode, encode
from portside.wire.tables import containerd_runtime_sandbox_v1, io_containerd_cgroups_v1, io_containerd_cgroups_v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.process import Process
    from portside.shim.shared import Shim
    from portside.shim.task import Task
    from portside.wire.codec import Message

SERVICE: Final = "containerd.runtime.sandbox.v1.Sandbox"
READY: Final = "SANDBOX_READY"
NOT_READY: Final = "SANDBOX_NOTREADY"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class SandboxService:
    """At most one sandbox. ``tasks`` are the shim's, by container id; ``shut_down`` ends the shim if it is idle."""

    __slots__ = (
        "_bundle", "_created_ns", "_exited_ns", "_id", "_netns", "_rootfs", "_shim", "_started_ns", "_stopping",
        "_waiting", "shut_down", "tasks",
    )  # fmt: skip

    def __init__(self, shim: Shim, tasks: dict[str, Task], shut_down: Callable[[], None]) -> None:
        self._shim = shim
        self.tasks = tasks
        self.shut_down = shut_down
        self._id = self._bundle = self._netns = ""
        self._created_ns = self._started_ns = self._exited_ns = 0
        self._rootfs = Rootfs()
        self._waiting: list[Call] = []
        self._stopping: list[Call] = []

    @property
    def exists(self) -> bool:
        """Whether the shim is a sandbox now."""
        return bool(self._id)

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``."""
        if self._stopping:
            raise NotQuiet
        if not self._id:
            return {}
        facts, _fds = self._rootfs.hand_over()  # It was mounted visibly: no descriptor.
        return {
            "id": self._id, "bundle": self._bundle, "netns": self._netns, "created_ns": self._created_ns,
            "started_ns": self._started_ns, "exited_ns": self._exited_ns, "rootfs": facts,
            "waiting": [call.freeze(ice) for call in self._waiting],
        }  # fmt: skip

    def thaw(self, ice: Thawing, values: Values) -> None:
        """The sandbox that was frozen, if there was one."""
        if not values:
            return
        self._id, self._bundle, self._netns = values["id"], values["bundle"], values["netns"]
        self._created_ns, self._started_ns = values["created_ns"], values["started_ns"]
        self._exited_ns = values["exited_ns"]
        self._rootfs.take_over(values["rootfs"], [])
        self._waiting = [Call.thaw(ice, frozen) for frozen in values["waiting"]]

    def handle(self, call: Call) -> None:
        """Answer ``call``, now or later; an error raised here is its answer."""
        found = METHODS.get(call.method)
        if found is None:
            raise Unimplemented(f"method {call.service}/{call.method[:200]} is not served here")
        method, request_type, response_type = found
        answer = method(self, decode(request_type, call.payload), call)
        if answer is not None:
            call.respond(encode(response_type, answer))

    # One method for each call: the fields of its answer, or None if it is answered later.

    def _create(self, request: Message, _call: Call) -> dict[str, Any]:
        id = request["sandbox_id"]
        if self._id:
            raise AlreadyExists(f"create sandbox {id}: this shim is the sandbox {self._id}")
        if not id or not request["bundle_path"].startswith("/"):
            raise InvalidArgument(f"create sandbox {id!r}: needs an id and the absolute path of a bundle")
        netns = request["netns_path"]
        if netns and not os.path.exists(netns):
            raise NotFound(f"create sandbox {id}: no network namespace at {netns[:200]}")
        self._rootfs.mount(request["rootfs"], request["bundle_path"], visible=True)
        self._id, self._bundle, self._netns = id, request["bundle_path"], netns
        self._created_ns = time.time_ns()
        self._started_ns = self._exited_ns = 0
        return {}

    def _start(self, request: Message, _call: Call) -> dict[str, Any]:
        self._check(request)
        if self._started_ns or self._exited_ns:
            raise FailedPrecondition(f"start sandbox {self._id}: it was started already")
        self._started_ns = time.time_ns()
        return {"pid": self._shim.pid, "created_at": timestamp(self._created_ns)}

    def _platform(self, request: Message, _call: Call) -> dict[str, Any]:
        self._check(request)
        machine = os.uname().machine
        return {"platform": {"os": "linux", "architecture": _ARCHITECTURES.get(machine, machine)}}

    def _stop(self, request: Message, call: Call) -> None:
        """Tasks are asked to end, and made to after the timeout; the last one to end answers."""
        self._check(request)
        self._stopping.append(call)
        for task in self._living():
            self._signal(task, signals.SIGTERM if request["timeout_secs"] else signals.SIGKILL)
            task.init.wait(self._task_ended)
        if request["timeout_secs"] and self._living():
            self._shim.loop.later(request["timeout_secs"], self._kill_living)
        self._end_if_done()

    def _wait(self, request: Message, call: Call) -> None:
        self._check(request)
        self._waiting.append(call)
        if self._exited_ns:
            self._answer_waiting()

    def _status(self, request: Message, _call: Call) -> dict[str, Any]:
        self._check(request)
        ready = self._started_ns and not self._exited_ns
        info = {"bundle": self._bundle, "netns": self._netns, "tasks": ",".join(sorted(self.tasks))}
        return {
            "sandbox_id": self._id,
            "pid": self._shim.pid,
            "state": READY if ready else NOT_READY,
            "info": info if request["verbose"] else {},
            "created_at": timestamp(self._created_ns),
            "exited_at": timestamp(self._exited_ns),
        }

    def _ping(self, request: Message, _call: Call) -> dict[str, Any]:
        self._check(request)
        return {}

    def _shutdown(self, request: Message, _call: Call) -> dict[str, Any]:
        """Tasks are for the task service to delete first; a sandbox without is gone, and the shim with it."""
        self._check(request)
        if self.tasks:
            raise FailedPrecondition(f"shut down sandbox {self._id}: it has tasks: {', '.join(sorted(self.tasks))}")
        self._end()
        self._rootfs.unmount()
        self._id = self._bundle = self._netns = ""
        self._shim.loop.soon(self.shut_down)
        return {}

    def _metrics(self, request: Message, _call: Call) -> dict[str, Any]:
        """Of the task with the sandbox's own id, if there is one: of all together there is no message."""
        self._check(request)
        metric: dict[str, Any] = {"id": self._id, "timestamp": timestamp(time.time_ns())}
        task = self.tasks.get(self._id)
        if task is not None and task.init.status != STOPPED:
            version, figures = task.stats()
            module = io_containerd_cgroups_v1 if version == "v1" else io_containerd_cgroups_v2
            type_url = f"io.containerd.cgroups.{version}.Metrics"
            metric["data"] = {"type_url": type_url, "value": encode(module.Metrics, figures)}
        return {"metrics": metric}

    # The end

    def _check(self, request: Message) -> None:
        if not self._id or request["sandbox_id"] != self._id:
            raise NotFound(f"sandbox {request['sandbox_id'][:200]}: not found")

    def _living(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.init.status != STOPPED]

    def _signal(self, task: Task, number: int) -> None:
        # A task that was not started ignores what can be ignored.
        number = signals.SIGKILL if task.init.status == CREATED else number
        try:
            task.kill("", number, number == signals.SIGKILL, _ignore)
        except PortsideError:
            pass  # It has ended meanwhile, which is told to who waits.

    def _kill_living(self) -> None:
        if self._stopping:
            for task in self._living():
                self._signal(task, signals.SIGKILL)

    def _task_ended(self, _process: Process) -> None:
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._stopping and not self._living():
            self._end()

    def _end(self) -> None:
        if self._id and not self._exited_ns:
            self._exited_ns = time.time_ns()
        stopping, self._stopping = self._stopping, []
        for call in stopping:
            call.respond(encode(containerd_runtime_sandbox_v1.StopSandboxResponse, {}))
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            answer = {"exit_status": 0, "exited_at": timestamp(self._exited_ns)}
            call.respond(encode(containerd_runtime_sandbox_v1.WaitSandboxResponse, answer))


def _ignore(_outcome: PortsideError | None) -> None:
    """Of a signal: who waits hears of the end."""


def _methods() -> dict[str, tuple[Callable[[SandboxService, Message, Call], Any], Any, Any]]:
    table = {}
    for name, (request, response, _, _) in containerd_runtime_sandbox_v1.SERVICES[SERVICE].items():
        short = name.replace("Sandbox", "").lower()
        table[name] = (getattr(SandboxService, f"_{short}"), request, response)
    return table


METHODS: Final = _methods()
"""By the wire's name: what serves it, and the tables of request and response."""


def prepare() -> None:
    """Get the tables ready, in the zygote."""
    for _method, request, response in METHODS.values():
        request.prepare()
        response.prepare()
