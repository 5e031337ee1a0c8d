"""containerd.services.sandbox.v1: Store and Controller."""

from __future__ import annotations

from portside.api.context import bound
from portside.convert.basics import any_from_pb, mounts_from_pb, platform_to_pb, timestamp_to_pb
from portside.convert.running import metric_to_pb
from portside.convert.sandboxes import instance_to_pb, sandbox_from_pb, sandbox_to_pb, status_to_pb
from portside.core.sandboxes import Sandbox, SandboxController
from portside.core.services import Backend
from portside.errors import InvalidArgument
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.sandbox.v1 import sandbox_pb2 as pb

STORE = pb.DESCRIPTOR.services_by_name["Store"]
CONTROLLER = pb.DESCRIPTOR.services_by_name["Controller"]


class SandboxStoreService:
    """Records of sandboxes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def create(self, request: pb.StoreCreateRequest, call: Call) -> pb.StoreCreateResponse:
        """Make a record."""
        sandbox = await bound(self._backend, call).sandboxes.create(sandbox_from_pb(request.sandbox))
        return pb.StoreCreateResponse(sandbox=sandbox_to_pb(sandbox))

    async def update(self, request: pb.StoreUpdateRequest, call: Call) -> pb.StoreUpdateResponse:
        """Change what the fields name."""
        store = bound(self._backend, call).sandboxes
        sandbox = await store.update(sandbox_from_pb(request.sandbox), tuple(request.fields))
        return pb.StoreUpdateResponse(sandbox=sandbox_to_pb(sandbox))

    async def delete(self, request: pb.StoreDeleteRequest, call: Call) -> pb.StoreDeleteResponse:
        """Remove a record."""
        await bound(self._backend, call).sandboxes.delete(request.sandbox_id)
        return pb.StoreDeleteResponse()

    async def list(self, request: pb.StoreListRequest, call: Call) -> pb.StoreListResponse:
        """Those that match any filter."""
        found = await bound(self._backend, call).sandboxes.list(tuple(request.filters))
        return pb.StoreListResponse(list=[sandbox_to_pb(sandbox) for sandbox in found])

    async def get(self, request: pb.StoreGetRequest, call: Call) -> pb.StoreGetResponse:
        """One by id."""
        sandbox = await bound(self._backend, call).sandboxes.get(request.sandbox_id)
        return pb.StoreGetResponse(sandbox=sandbox_to_pb(sandbox))


class SandboxControllerService:
    """Sandboxes that run; every call names the controller."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def _controller(self, name: str, call: Call) -> SandboxController:
        if not name:
            raise InvalidArgument("the request names no sandbox controller")
        return bound(self._backend, call).sandbox_controller(name)

    async def create(self, request: pb.ControllerCreateRequest, call: Call) -> pb.ControllerCreateResponse:
        """Make one; older clients send its id alone."""
        sandbox = sandbox_from_pb(request.sandbox) if request.HasField("sandbox") else Sandbox(request.sandbox_id)
        if sandbox.id != request.sandbox_id:
            raise InvalidArgument(f"create sandbox {request.sandbox_id!r}: its record is of {sandbox.id!r}")
        await self._controller(request.sandboxer, call).create(
            sandbox,
            rootfs=mounts_from_pb(request.rootfs),
            options=any_from_pb(request.options),
            netns_path=request.netns_path,
            annotations=dict(request.annotations),
        )
        return pb.ControllerCreateResponse(sandbox_id=sandbox.id)

    async def start(self, request: pb.ControllerStartRequest, call: Call) -> pb.ControllerStartResponse:
        """Let it run."""
        return instance_to_pb(await self._controller(request.sandboxer, call).start(request.sandbox_id))

    async def platform(self, request: pb.ControllerPlatformRequest, call: Call) -> pb.ControllerPlatformResponse:
        """What containers in it are for."""
        platform = await self._controller(request.sandboxer, call).platform(request.sandbox_id)
        return pb.ControllerPlatformResponse(platform=platform_to_pb(platform))

    async def stop(self, request: pb.ControllerStopRequest, call: Call) -> pb.ControllerStopResponse:
        """End what runs in it."""
        await self._controller(request.sandboxer, call).stop(request.sandbox_id, request.timeout_secs)
        return pb.ControllerStopResponse()

    async def wait(self, request: pb.ControllerWaitRequest, call: Call) -> pb.ControllerWaitResponse:
        """Answer when it has ended."""
        controller = self._controller(request.sandboxer, call)
        call.endless = True
        ended = await controller.wait(request.sandbox_id)
        return pb.ControllerWaitResponse(exit_status=ended.status, exited_at=timestamp_to_pb(ended.exited_ns))

    async def status(self, request: pb.ControllerStatusRequest, call: Call) -> pb.ControllerStatusResponse:
        """How it is."""
        controller = self._controller(request.sandboxer, call)
        return status_to_pb(await controller.status(request.sandbox_id, request.verbose))

    async def shutdown(self, request: pb.ControllerShutdownRequest, call: Call) -> pb.ControllerShutdownResponse:
        """Remove all of it."""
        await self._controller(request.sandboxer, call).shutdown(request.sandbox_id)
        return pb.ControllerShutdownResponse()

    async def metrics(self, request: pb.ControllerMetricsRequest, call: Call) -> pb.ControllerMetricsResponse:
        """What it uses."""
        metric = await self._controller(request.sandboxer, call).metrics(request.sandbox_id)
        return pb.ControllerMetricsResponse(metrics=metric_to_pb(metric))

    async def update(self, request: pb.ControllerUpdateRequest, call: Call) -> pb.ControllerUpdateResponse:
        """Tell it that the record has changed."""
        controller = self._controller(request.sandboxer, call)
        await controller.update(request.sandbox_id, sandbox_from_pb(request.sandbox), tuple(request.fields))
        return pb.ControllerUpdateResponse()
