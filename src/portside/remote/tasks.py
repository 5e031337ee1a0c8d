"""containerd.services.tasks.v1.Tasks as a ``TaskService``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.convert.basics import any_to_pb, descriptor_to_pb, mounts_to_pb, timestamp_from_pb
from portside.convert.running import metric_from_pb, process_from_pb, process_info_from_pb
from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.core.tasks import Exit, Metric, Process, ProcessInfo, TaskIO
from portside.oci.descriptor import Descriptor
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.tasks.v1 import tasks_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = "containerd.services.tasks.v1.Tasks"


class RemoteTasks:
    """The tasks of one namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def create(
        self, container_id: str, rootfs: Sequence[Mount], io: TaskIO,
        *, options: AnyMessage | None = None, checkpoint: Descriptor | None = None, runtime_path: str = "",
    ) -> int:  # fmt: skip
        """Make the task of a container; its pid."""
        request = pb.CreateTaskRequest(
            container_id=container_id,
            rootfs=mounts_to_pb(rootfs),
            stdin=io.stdin,
            stdout=io.stdout,
            stderr=io.stderr,
            terminal=io.terminal,
            checkpoint=None if checkpoint is None else descriptor_to_pb(checkpoint),
            options=any_to_pb(options),
            runtime_path=runtime_path,
        )
        return (await self._caller.call("Create", request, pb.CreateTaskResponse, timeout=None)).pid

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Let it run; its pid."""
        request = pb.StartRequest(container_id=container_id, exec_id=exec_id)
        return (await self._caller.call("Start", request, pb.StartResponse, timeout=None)).pid

    async def exec(self, container_id: str, exec_id: str, spec: AnyMessage, io: TaskIO) -> None:
        """Add a process."""
        request = pb.ExecProcessRequest(
            container_id=container_id,
            exec_id=exec_id,
            spec=any_to_pb(spec),
            stdin=io.stdin,
            stdout=io.stdout,
            stderr=io.stderr,
            terminal=io.terminal,
        )
        await self._caller.call("Exec", request, empty_pb2.Empty)

    async def get(self, container_id: str, exec_id: str = "") -> Process:
        """Its state."""
        request = pb.GetRequest(container_id=container_id, exec_id=exec_id)
        return process_from_pb((await self._caller.call("Get", request, pb.GetResponse)).process)

    async def list(self) -> Sequence[Process]:
        """The first process of every task."""
        response = await self._caller.call("List", pb.ListTasksRequest(), pb.ListTasksResponse)
        return [process_from_pb(process) for process in response.tasks]

    async def wait(self, container_id: str, exec_id: str = "") -> Exit:
        """Until it has ended; the answer has no pid, so ``pid`` is 0."""
        request = pb.WaitRequest(container_id=container_id, exec_id=exec_id)
        response = await self._caller.call("Wait", request, pb.WaitResponse, timeout=None)
        return Exit(0, response.exit_status, timestamp_from_pb(response.exited_at))

    async def delete(self, container_id: str, exec_id: str = "") -> Exit:
        """Remove a process that does not run; how it ended."""
        if exec_id:
            request = pb.DeleteProcessRequest(container_id=container_id, exec_id=exec_id)
            response = await self._caller.call("DeleteProcess", request, pb.DeleteResponse)
        else:
            whole = pb.DeleteTaskRequest(container_id=container_id)
            response = await self._caller.call("Delete", whole, pb.DeleteResponse)
        return Exit(response.pid, response.exit_status, timestamp_from_pb(response.exited_at))

    async def kill(self, container_id: str, signal: int, exec_id: str = "", all: bool = False) -> None:
        """Send a signal."""
        request = pb.KillRequest(container_id=container_id, exec_id=exec_id, signal=signal, all=all)
        await self._caller.call("Kill", request, empty_pb2.Empty)

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        """Tell its terminal how large the window is."""
        request = pb.ResizePtyRequest(container_id=container_id, exec_id=exec_id, width=width, height=height)
        await self._caller.call("ResizePty", request, empty_pb2.Empty)

    async def close_io(self, container_id: str, exec_id: str = "", stdin: bool = True) -> None:
        """End its standard input."""
        request = pb.CloseIORequest(container_id=container_id, exec_id=exec_id, stdin=stdin)
        await self._caller.call("CloseIO", request, empty_pb2.Empty)

    async def pause(self, container_id: str) -> None:
        """Freeze it."""
        await self._caller.call("Pause", pb.PauseTaskRequest(container_id=container_id), empty_pb2.Empty)

    async def resume(self, container_id: str) -> None:
        """Undo pause."""
        await self._caller.call("Resume", pb.ResumeTaskRequest(container_id=container_id), empty_pb2.Empty)

    async def pids(self, container_id: str) -> Sequence[ProcessInfo]:
        """Its processes."""
        request = pb.ListPidsRequest(container_id=container_id)
        response = await self._caller.call("ListPids", request, pb.ListPidsResponse)
        return [process_info_from_pb(info) for info in response.processes]

    async def update(self, container_id: str, resources: AnyMessage, annotations: dict[str, str] | None = None) -> None:
        """Change limits."""
        request = pb.UpdateTaskRequest(
            container_id=container_id, resources=any_to_pb(resources), annotations=annotations
        )
        await self._caller.call("Update", request, empty_pb2.Empty)

    async def metrics(self, filters: Sequence[str] = ()) -> Sequence[Metric]:
        """Usage."""
        response = await self._caller.call("Metrics", pb.MetricsRequest(filters=filters), pb.MetricsResponse)
        return [metric_from_pb(metric) for metric in response.metrics]
