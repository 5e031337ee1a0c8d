"""The calls of a shim: containerd.task.v2.Task and containerd.task.v3.Task, which are the same messages.

What belongs here: from bytes to a task's method and back. A call that has to wait (Wait; Delete, for streams) keeps its
``Call`` and is answered later; the loop never blocks on it.

Source: containerd's api/runtime/task/v2/shim.proto and v3/shim.proto.
"""

from __future__ import annotations

from portside.errors import AlreadyExists, InvalidArgument, NotFound, PortsideError, Unimplemented
from portside.shim import sandbox_service
from portside.shim.frozen import NotQuiet
from portside.shim.process import WaitAnswer
from portside.shim.sandbox_service import SandboxService
from portside.shim.shared import Shim
from portside.shim.task import Task
from portside.version import __version__
from portside.wire.codec import decode, encode
from portside.wire.tables import (
    containerd_runc_v1,
    containerd_task,
    google_protobuf,
    io_containerd_cgroups_v1,
    io_containerd_cgroups_v2,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.rpc import Call
    from portside.wire.codec import Message, Table

SERVICES: Final = ("containerd.task.v2.Task", "containerd.task.v3.Task")
_RUNC_OPTIONS: Final = ("containerd.runc.v1.Options", "runtimeoptions.v1.Options")


class LaterType:
    """What a method returns that answers its call itself."""


LATER: Final = LaterType()


class TaskService:
    """The tasks of one shim, by container id. ``on_change`` is called after a task has come or gone."""

    __slots__ = ("_creating", "_shim", "on_change", "on_shutdown", "sandbox", "tasks")

    def __init__(self, shim: Shim, on_change: Callable[[], None], on_shutdown: Callable[[], None]) -> None:
        self._shim = shim
        self._creating: set[str] = set()
        self.tasks: dict[str, Task] = {}
        """Those that are not deleted yet."""
        self.sandbox = SandboxService(shim, self.tasks, on_shutdown)
        self.on_change = on_change
        self.on_shutdown = on_shutdown

    @property
    def idle(self) -> bool:
        """Whether there is no task, nor one being made, nor a sandbox."""
        return not self.tasks and not self._creating and not self.sandbox.exists

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``."""
        if self._creating:
            raise NotQuiet
        tasks = [task.freeze(ice) for task in self.tasks.values()]
        return {"tasks": tasks, "sandbox": self.sandbox.freeze(ice)}

    def thaw(self, ice: Thawing, values: Values) -> None:
        """The tasks that were frozen."""
        for frozen in values["tasks"]:
            task = Task.thaw(self._shim, ice, frozen)
            self.tasks[task.id] = task
        self.sandbox.thaw(ice, values["sandbox"])

    def handle(self, call: Call) -> None:
        """Answer ``call``, now or later; an error raised here is its answer."""
        if call.service == sandbox_service.SERVICE:
            self.sandbox.handle(call)
            return
        types = METHODS.get(call.method) if call.service in SERVICES else None
        if types is None:
            raise Unimplemented(f"method {call.service[:200]}/{call.method[:200]} is not served here")
        method, request_type, response_type = types
        # The daemon calls, so it is there to hear what happened in its absence.
        self._shim.outbox.retry()
        answer = method(self, decode(request_type, call.payload), call)
        if not isinstance(answer, LaterType):
            call.respond(encode(response_type, answer))

    def task(self, id: str) -> Task:
        """NotFound."""
        try:
            return self.tasks[id]
        except KeyError:
            raise NotFound(f"task {id}: not found") from None

    # One method for each call; the names are the wire's.

    def _state(self, request: Message, _call: Call) -> dict[str, Any]:
        return self.task(request["id"]).state(request["exec_id"])

    def _create(self, request: Message, call: Call) -> LaterType:
        id = request["id"]
        if not id or not request["bundle"].startswith("/"):
            raise InvalidArgument(f"create task {id!r}: needs an id and the absolute path of a bundle")
        if id in self.tasks or id in self._creating:
            raise AlreadyExists(f"task {id}: already exists")
        task = Task(self._shim, request, _options(request["options"]))

        def done(outcome: int | PortsideError) -> None:
            self._creating.discard(id)
            if not isinstance(outcome, PortsideError):
                self.tasks[id] = task
            self.on_change()
            _answer_pid(call, containerd_task.CreateTaskResponse, outcome)

        task.create(done)
        self._creating.add(id)
        return LATER

    def _start(self, request: Message, call: Call) -> LaterType:
        def done(outcome: int | PortsideError) -> None:
            _answer_pid(call, containerd_task.StartResponse, outcome)

        self.task(request["id"]).start(request["exec_id"], done)
        return LATER

    def _delete(self, request: Message, call: Call) -> LaterType:
        task = self.task(request["id"])

        def done(answer: dict[str, Any] | Exception) -> None:
            if isinstance(answer, Exception):
                call.fail(answer)
            else:
                call.respond(encode(containerd_task.DeleteResponse, answer))

        def gone() -> None:
            self.tasks.pop(task.id, None)
            self.on_change()

        task.delete(request["exec_id"], done, gone)
        return LATER

    def _pids(self, request: Message, call: Call) -> LaterType:
        self.task(request["id"]).pids(_answer(call, containerd_task.PidsResponse, _processes))
        return LATER

    def _pause(self, request: Message, call: Call) -> LaterType:
        self.task(request["id"]).pause(_answer(call, google_protobuf.Empty))
        return LATER

    def _resume(self, request: Message, call: Call) -> LaterType:
        self.task(request["id"]).resume(_answer(call, google_protobuf.Empty))
        return LATER

    def _checkpoint(self, request: Message, _call: Call) -> dict[str, Any]:
        raise Unimplemented(f"checkpoint of task {request['id']}: not served yet")

    def _kill(self, request: Message, call: Call) -> LaterType:
        task, done = self.task(request["id"]), _answer(call, google_protobuf.Empty)
        task.kill(request["exec_id"], request["signal"], request["all"], done)
        return LATER

    def _exec(self, request: Message, _call: Call) -> dict[str, Any]:
        self.task(request["id"]).exec(request)
        return {}

    def _resize_pty(self, request: Message, _call: Call) -> dict[str, Any]:
        process = self.task(request["id"]).process(request["exec_id"])
        process.resize(request["width"], request["height"])
        return {}

    def _close_io(self, request: Message, _call: Call) -> dict[str, Any]:
        process = self.task(request["id"]).process(request["exec_id"])
        if request["stdin"]:
            process.streams.close_stdin()
        return {}

    def _update(self, request: Message, call: Call) -> LaterType:
        self.task(request["id"]).update(request["resources"], _answer(call, google_protobuf.Empty))
        return LATER

    def _wait(self, request: Message, call: Call) -> LaterType:
        self.task(request["id"]).process(request["exec_id"]).wait(WaitAnswer(call))
        return LATER

    def _stats(self, request: Message, _call: Call) -> dict[str, Any]:
        version, figures = self.task(request["id"]).stats()
        module = io_containerd_cgroups_v1 if version == "v1" else io_containerd_cgroups_v2
        type_url = f"io.containerd.cgroups.{version}.Metrics"
        return {"stats": {"type_url": type_url, "value": encode(module.Metrics, figures)}}

    def _connect(self, request: Message, _call: Call) -> dict[str, Any]:
        task = self.tasks.get(request["id"])
        return {
            "shim_pid": self._shim.pid,
            "task_pid": task.init.pid if task else 0,
            "version": f"portside {__version__}",
        }

    def _shutdown(self, _request: Message, _call: Call) -> dict[str, Any]:
        if self.idle:
            self._shim.loop.soon(self.on_shutdown)
        return {}


def _answer_pid(call: Call, table: Table, outcome: int | PortsideError) -> None:
    if isinstance(outcome, PortsideError):
        call.fail(outcome)
    else:
        call.respond(encode(table, {"pid": outcome}))


def _answer(call: Call, table: Table, fields: Callable[[Any], dict[str, Any]] = lambda _: {}) -> Callable[[Any], None]:
    """What answers ``call`` with ``fields`` of what it gets, or with the error that it gets."""

    def done(outcome: Any) -> None:
        if isinstance(outcome, PortsideError):
            call.fail(outcome)
        else:
            call.respond(encode(table, fields(outcome)))

    return done


def _processes(pids: list[tuple[int, str]]) -> dict[str, Any]:
    """The fields of a PidsResponse."""
    processes: list[dict[str, Any]] = []
    for pid, exec_id in pids:
        entry: dict[str, Any] = {"pid": pid}
        if exec_id:
            details = encode(containerd_runc_v1.ProcessDetails, {"exec_id": exec_id})
            entry["info"] = {"type_url": "containerd.runc.v1.ProcessDetails", "value": details}
        processes.append(entry)
    return {"processes": processes}


def _options(options: Message | None) -> dict[str, Any]:
    """The runtime's options from Create (containerd.runc.v1.Options); of others only runc's own are understood."""
    if options is None or not options["type_url"]:
        return {}
    name = options["type_url"].rpartition("/")[2]
    if name == "containerd.runc.v1.Options":
        return decode(containerd_runc_v1.Options, options["value"])
    if name in _RUNC_OPTIONS or name == "containerd.runc.v1.CheckpointOptions":
        return {}
    raise InvalidArgument(f"runtime options of type {name[:200]}: want {_RUNC_OPTIONS[0]}")


def _methods() -> dict[str, tuple[Callable[[TaskService, Message, Call], Any], Any, Any]]:
    table = {}
    for name, (request, response, _, _) in containerd_task.SERVICES[SERVICES[0]].items():
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        snake = snake.replace("_i_o", "_io")
        table[name] = (getattr(TaskService, snake), request, response)
    return table


METHODS: Final = _methods()
"""By the wire's name: what serves it, and the tables of request and response."""


def prepare() -> None:
    """Get the tables ready, in the zygote."""
    for _method, request, response in METHODS.values():
        request.prepare()
        response.prepare()
    sandbox_service.prepare()
    for table in (
        containerd_runc_v1.Options,
        google_protobuf.Empty,
        io_containerd_cgroups_v1.Metrics,
        io_containerd_cgroups_v2.Metrics,
    ):
        table.prepare()
