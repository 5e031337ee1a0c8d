"""``core.tasks.TaskService`` over the supervisor: what clients may ask for, in containerd's terms.

What belongs here: from a container's record to a task, arguments, and the errors that clients branch on. What does not:
shims (``supervisor/``), and messages of the API (``api/``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from portside.core.anymessage import AnyMessage
from portside.core.containers import RUNTIMES, Container, ContainerStore
from portside.core.filters import Adaptor, compile_filters
from portside.core.labels import check_identifier
from portside.core.mount import Mount
from portside.core.tasks import Exit, Metric, Process, ProcessInfo, TaskIO
from portside.engine.root_mounts import RootMounts
from portside.engine.shim_fields import any_fields, mount_fields
from portside.errors import FailedPrecondition, InvalidArgument, PortsideError, Unimplemented
from portside.oci.descriptor import Descriptor
from portside.supervisor.sandbox import ShimSandbox
from portside.supervisor.supervisor import Supervisor
from portside.supervisor.task import ShimTask

_T = TypeVar("_T")
FindSandbox: TypeAlias = Callable[[str, str], Awaitable[ShimSandbox | None]]
"""A sandbox by namespace and id, if there is one that is a shim."""

"""Runtime names that our own shim serves."""
SHIM_STATS = "io.containerd.timeout.metrics.shimstats"
"""The configuration's name for the seconds that a task may take for its figures before it is left out."""
METRICS_WITHIN = 8.0
"""Seconds for the figures of all tasks together; Prometheus does not wait longer than ten, unless told to."""
WIDTH = 32
"""Shims that are asked the same at a time."""


class TaskManager:
    """Tasks of all namespaces; ``bind`` gives one namespace's service. Owns neither supervisor nor stores."""

    def __init__(
        self, supervisor: Supervisor, containers: Callable[[str], ContainerStore], metrics_timeout: float = 2.0,
        roots: RootMounts | None = None, sandboxes: FindSandbox | None = None,
    ) -> None:  # fmt: skip
        """``containers`` gives the records of a namespace; ``metrics_timeout`` is what ``SHIM_STATS`` says."""
        self._roots, self._sandboxes = roots, sandboxes
        self._supervisor = supervisor
        self._containers = containers
        self._metrics_timeout = metrics_timeout

    def bind(self, namespace: str) -> Tasks:
        """The tasks of ``namespace``."""
        return Tasks(
            self._supervisor, self._containers(namespace), namespace, self._metrics_timeout, self._roots,
            self._sandboxes,
        )  # fmt: skip


class Tasks:
    """The tasks of one namespace (``core.tasks.TaskService``)."""

    def __init__(
        self, supervisor: Supervisor, containers: ContainerStore, namespace: str, metrics_timeout: float = 2.0,
        roots: RootMounts | None = None, sandboxes: FindSandbox | None = None,
    ) -> None:  # fmt: skip
        self._roots, self._sandboxes = roots, sandboxes
        self._metrics_timeout = metrics_timeout
        self._supervisor = supervisor
        self._containers = containers
        self._namespace = namespace

    async def create(
        self, container_id: str, rootfs: Sequence[Mount], io: TaskIO,
        *, options: AnyMessage | None = None, checkpoint: Descriptor | None = None, runtime_path: str = "",
    ) -> int:  # fmt: skip
        """See ``TaskService``. The container's spec goes to the bundle as the bytes that it is."""
        container = await self._containers.get(container_id)
        if container.runtime not in RUNTIMES or runtime_path:
            raise Unimplemented(
                f"create task {container_id}: runtime {runtime_path or container.runtime} is not served yet"
            )
        if checkpoint is not None and checkpoint.size:
            raise Unimplemented(f"create task {container_id}: from a checkpoint is not served yet")
        if container.spec is None or not container.spec.value:
            raise InvalidArgument(f"create task {container_id}: its container has no spec")
        chosen = options if options is not None and options.value else container.runtime_options
        activated = ""
        if self._roots is not None:
            activated, rootfs = await self._roots.make(self._namespace, container_id, rootfs)
        fields: dict[str, Any] = {
            "rootfs": mount_fields(rootfs),
            **_io_fields(io),
        }
        if chosen is not None:
            fields["options"] = any_fields(chosen)
        try:
            return await self._supervisor.create(
                self._namespace, container_id, container.spec.value, fields, await self._sandbox(container)
            )
        except BaseException:
            if self._roots is not None and activated:
                await self._roots.undo(self._namespace, container_id, activated)
            raise

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """See ``TaskService``; FailedPrecondition unless it was just created."""
        return await (await self._task(container_id)).start(exec_id)

    async def exec(self, container_id: str, exec_id: str, spec: AnyMessage, io: TaskIO) -> None:
        """See ``TaskService``; FailedPrecondition unless the task is running; InvalidArgument for an odd id."""
        check_identifier(exec_id, "exec")
        task = await self._task(container_id)
        await task.call("Exec", {"exec_id": exec_id, "spec": any_fields(spec), **_io_fields(io)})

    async def get(self, container_id: str, exec_id: str = "") -> Process:
        """See ``TaskService``."""
        return await (await self._task(container_id)).state(exec_id)

    async def list(self) -> Sequence[Process]:
        """See ``TaskService``; a task that goes while it is asked is left out."""
        tasks = await self._supervisor.tasks(self._namespace)
        return await _answers(task.state() for task in tasks)

    async def wait(self, container_id: str, exec_id: str = "") -> Exit:
        """See ``TaskService``."""
        return await (await self._task(container_id)).wait(exec_id)

    async def delete(self, container_id: str, exec_id: str = "") -> Exit:
        """See ``TaskService``."""
        ended = await self._supervisor.delete(await self._task(container_id), exec_id)
        if self._roots is not None and not exec_id:
            await self._roots.undo(self._namespace, container_id)
        return ended

    async def kill(self, container_id: str, signal: int, exec_id: str = "", all: bool = False) -> None:
        """See ``TaskService``."""
        await (await self._task(container_id)).kill(signal, exec_id, all)

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        """See ``TaskService``."""
        task = await self._task(container_id)
        await task.call("ResizePty", {"exec_id": exec_id, "width": width, "height": height})

    async def close_io(self, container_id: str, exec_id: str = "", stdin: bool = True) -> None:
        """See ``TaskService``."""
        await (await self._task(container_id)).call("CloseIO", {"exec_id": exec_id, "stdin": stdin})

    async def pause(self, container_id: str) -> None:
        """See ``TaskService``."""
        await (await self._task(container_id)).call("Pause")

    async def resume(self, container_id: str) -> None:
        """See ``TaskService``."""
        await (await self._task(container_id)).call("Resume")

    async def pids(self, container_id: str) -> Sequence[ProcessInfo]:
        """See ``TaskService``."""
        answer = await (await self._task(container_id)).call("Pids")
        return [
            ProcessInfo(
                entry["pid"], AnyMessage(entry["info"]["type_url"], entry["info"]["value"]) if entry["info"] else None
            )
            for entry in answer["processes"]
        ]

    async def update(self, container_id: str, resources: AnyMessage, annotations: dict[str, str] | None = None) -> None:
        """See ``TaskService``."""
        fields = {"resources": any_fields(resources), "annotations": annotations or {}}
        await (await self._task(container_id)).call("Update", fields)

    async def metrics(self, filters: Sequence[str] = ()) -> Sequence[Metric]:
        """See ``TaskService``."""
        accepts = compile_filters(filters)
        tasks = await self._supervisor.tasks(self._namespace)
        wanted = [task for task in tasks if accepts is None or accepts(_fields(task))]
        return await _answers((_metric(task, self._metrics_timeout) for task in wanted), METRICS_WITHIN)

    async def _sandbox(self, container: Container) -> ShimSandbox | None:
        """The sandbox whose shim is to have the task; None if it has none, or one that is no shim."""
        if not container.sandbox_id or self._sandboxes is None:
            return None
        return await self._sandboxes(self._namespace, container.sandbox_id)

    async def _task(self, container_id: str) -> ShimTask:
        return await self._supervisor.task(self._namespace, container_id)


async def _metric(task: ShimTask, timeout: float) -> Metric:
    answer = await task.call("Stats", timeout=timeout)
    stats = answer["stats"]
    if stats is None:
        raise FailedPrecondition(f"task {task.id}: no figures")
    return Metric(task.id, time.time_ns(), AnyMessage(stats["type_url"], stats["value"]))


async def _answers(calls: Iterable[Coroutine[Any, Any, _T]], within: float | None = None) -> list[_T]:
    """What the tasks answer, ``WIDTH`` asked at a time; what is not an error of ours is a defect.

    One that cannot answer is left out, and all that have not answered after ``within`` seconds.
    """
    gate = asyncio.Semaphore(WIDTH)

    async def ask(call: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with gate:
                return await call
        finally:
            call.close()  # where it was not begun

    asking = [asyncio.create_task(ask(call)) for call in calls]
    if not asking:
        return []
    try:
        done, _ = await asyncio.wait(asking, timeout=within)
    finally:
        for task in asking:
            task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    found: list[_T] = []
    for task in asking:
        if task not in done or task.cancelled():
            continue
        error = task.exception()
        if error is None:
            found.append(task.result())
        elif not isinstance(error, PortsideError):
            raise error
    return found


def _fields(task: ShimTask) -> Adaptor:
    """``id``, ``namespace``."""
    fields: dict[tuple[str, ...], str] = {("id",): task.id, ("namespace",): task.namespace}
    return lambda path: fields.get(path)


def _io_fields(io: TaskIO) -> dict[str, Any]:
    return {"stdin": io.stdin, "stdout": io.stdout, "stderr": io.stderr, "terminal": io.terminal}
