"""containerd.services.tasks.v1.Tasks."""

from __future__ import annotations

from contextlib import suppress

from portside.api.context import bound
from portside.convert.basics import any_from_pb, descriptor_from_pb, mounts_from_pb, timestamp_to_pb
from portside.convert.running import metric_to_pb, process_info_to_pb, process_to_pb
from portside.core.services import Backend
from portside.core.tasks import Exit, TaskIO, TaskService
from portside.errors import FailedPrecondition, InvalidArgument
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.tasks.v1 import tasks_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Tasks"]


class TasksService:
    """What runs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def _tasks(self, call: Call) -> TaskService:
        return bound(self._backend, call).tasks

    async def create(self, request: pb.CreateTaskRequest, call: Call) -> pb.CreateTaskResponse:
        """Make the task of a container."""
        pid = await self._tasks(call).create(
            request.container_id,
            mounts_from_pb(request.rootfs),
            TaskIO(request.stdin, request.stdout, request.stderr, request.terminal),
            options=any_from_pb(request.options),
            checkpoint=descriptor_from_pb(request.checkpoint) if request.HasField("checkpoint") else None,
            runtime_path=request.runtime_path,
        )
        return pb.CreateTaskResponse(container_id=request.container_id, pid=pid)

    async def start(self, request: pb.StartRequest, call: Call) -> pb.StartResponse:
        """Let a process run."""
        return pb.StartResponse(pid=await self._tasks(call).start(request.container_id, request.exec_id))

    async def delete(self, request: pb.DeleteTaskRequest, call: Call) -> pb.DeleteResponse:
        """Remove a task that ended."""
        return _deleted("", await self._tasks(call).delete(request.container_id))

    async def delete_process(self, request: pb.DeleteProcessRequest, call: Call) -> pb.DeleteResponse:
        """Remove an exec that ended."""
        exit = await self._tasks(call).delete(request.container_id, request.exec_id)
        return _deleted(request.exec_id, exit)

    async def get(self, request: pb.GetRequest, call: Call) -> pb.GetResponse:
        """State of a process."""
        process = await self._tasks(call).get(request.container_id, request.exec_id)
        return pb.GetResponse(process=process_to_pb(process))

    async def list(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        """The first process of every task."""
        return pb.ListTasksResponse(tasks=[process_to_pb(process) for process in await self._tasks(call).list()])

    async def kill(self, request: pb.KillRequest, call: Call) -> empty_pb2.Empty:
        """Send a signal."""
        await self._tasks(call).kill(request.container_id, request.signal, request.exec_id, request.all)
        return empty_pb2.Empty()

    async def exec(self, request: pb.ExecProcessRequest, call: Call) -> empty_pb2.Empty:
        """Add a process."""
        spec = any_from_pb(request.spec)
        if not request.exec_id or spec is None:
            raise InvalidArgument(f"exec in {request.container_id}: want an exec id and a process spec")
        io = TaskIO(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._tasks(call).exec(request.container_id, request.exec_id, spec, io)
        return empty_pb2.Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest, call: Call) -> empty_pb2.Empty:
        """Tell a terminal its size; a process that has none does not mind, nor does one that has ended meanwhile.

        So do containerd's shims, and ``ctr`` tells its user of every other answer.
        """
        with suppress(FailedPrecondition):
            await self._tasks(call).resize(request.container_id, request.width, request.height, request.exec_id)
        return empty_pb2.Empty()

    async def close_io(self, request: pb.CloseIORequest, call: Call) -> empty_pb2.Empty:
        """End standard input."""
        await self._tasks(call).close_io(request.container_id, request.exec_id, request.stdin)
        return empty_pb2.Empty()

    async def pause(self, request: pb.PauseTaskRequest, call: Call) -> empty_pb2.Empty:
        """Freeze."""
        await self._tasks(call).pause(request.container_id)
        return empty_pb2.Empty()

    async def resume(self, request: pb.ResumeTaskRequest, call: Call) -> empty_pb2.Empty:
        """Thaw."""
        await self._tasks(call).resume(request.container_id)
        return empty_pb2.Empty()

    async def list_pids(self, request: pb.ListPidsRequest, call: Call) -> pb.ListPidsResponse:
        """All processes of a task."""
        infos = await self._tasks(call).pids(request.container_id)
        return pb.ListPidsResponse(processes=[process_info_to_pb(info) for info in infos])

    async def update(self, request: pb.UpdateTaskRequest, call: Call) -> empty_pb2.Empty:
        """Change limits."""
        resources = any_from_pb(request.resources)
        if resources is None:
            raise InvalidArgument(f"update task {request.container_id}: the request has no resources")
        await self._tasks(call).update(request.container_id, resources, dict(request.annotations))
        return empty_pb2.Empty()

    async def metrics(self, request: pb.MetricsRequest, call: Call) -> pb.MetricsResponse:
        """What tasks use."""
        metrics = await self._tasks(call).metrics(tuple(request.filters))
        return pb.MetricsResponse(metrics=[metric_to_pb(metric) for metric in metrics])

    async def wait(self, request: pb.WaitRequest, call: Call) -> pb.WaitResponse:
        """Until a process has ended."""
        call.endless = True
        exit = await self._tasks(call).wait(request.container_id, request.exec_id)
        return pb.WaitResponse(exit_status=exit.status, exited_at=timestamp_to_pb(exit.exited_ns))


def _deleted(id: str, exit: Exit) -> pb.DeleteResponse:
    return pb.DeleteResponse(
        id=id,
        pid=exit.pid,
        exit_status=exit.status,
        exited_at=timestamp_to_pb(exit.exited_ns) if exit.exited_ns else None,
    )
