"""containerd.services.sandbox.v1 as a ``SandboxStore`` and as a ``SandboxController``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portside.convert.basics import any_to_pb, mounts_to_pb, platform_from_pb, timestamp_from_pb
from portside.convert.running import metric_from_pb
from portside.convert.sandboxes import instance_from_pb, sandbox_from_pb, sandbox_to_pb, status_from_pb
from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.core.sandboxes import Sandbox, SandboxExit, SandboxInstance, SandboxStatus
from portside.core.tasks import Metric
from portside.oci.platform import Platform
from portside.remote.caller import TIMEOUT, Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.sandbox.v1 import sandbox_pb2 as pb

STORE = "containerd.services.sandbox.v1.Store"
CONTROLLER = "containerd.services.sandbox.v1.Controller"


class RemoteSandboxes:
    """The records of one namespace; servers before containerd 1.7 have none (Unimplemented)."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, STORE, namespace, lease)

    async def create(self, sandbox: Sandbox) -> Sandbox:
        """Make a record."""
        request = pb.StoreCreateRequest(sandbox=sandbox_to_pb(sandbox))
        return sandbox_from_pb((await self._caller.call("Create", request, pb.StoreCreateResponse)).sandbox)

    async def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        """Change what the paths name."""
        request = pb.StoreUpdateRequest(sandbox=sandbox_to_pb(sandbox), fields=fieldpaths)
        return sandbox_from_pb((await self._caller.call("Update", request, pb.StoreUpdateResponse)).sandbox)

    async def delete(self, id: str) -> None:
        """Remove a record."""
        await self._caller.call("Delete", pb.StoreDeleteRequest(sandbox_id=id), pb.StoreDeleteResponse)

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Sandbox]:
        """Those that match."""
        response = await self._caller.call("List", pb.StoreListRequest(filters=filters), pb.StoreListResponse)
        return [sandbox_from_pb(sandbox) for sandbox in response.list]

    async def get(self, id: str) -> Sandbox:
        """One by id."""
        request = pb.StoreGetRequest(sandbox_id=id)
        return sandbox_from_pb((await self._caller.call("Get", request, pb.StoreGetResponse)).sandbox)


class RemoteSandboxController:
    """The controller ``name`` of the server, as one namespace sees it."""

    def __init__(self, channel: Channel, namespace: str, lease: str, name: str) -> None:
        self._caller = Caller(channel, CONTROLLER, namespace, lease)
        self._name = name

    async def create(
        self, sandbox: Sandbox, *, rootfs: Sequence[Mount] = (), options: AnyMessage | None = None,
        netns_path: str = "", annotations: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Make one."""
        request = pb.ControllerCreateRequest(
            sandbox_id=sandbox.id, rootfs=mounts_to_pb(rootfs), options=any_to_pb(options), netns_path=netns_path,
            annotations=annotations, sandbox=sandbox_to_pb(sandbox), sandboxer=self._name,
        )  # fmt: skip
        await self._caller.call("Create", request, pb.ControllerCreateResponse)

    async def start(self, id: str) -> SandboxInstance:
        """Let it run."""
        request = pb.ControllerStartRequest(sandbox_id=id, sandboxer=self._name)
        return instance_from_pb(await self._caller.call("Start", request, pb.ControllerStartResponse))

    async def platform(self, id: str) -> Platform:
        """What containers in it are for."""
        request = pb.ControllerPlatformRequest(sandbox_id=id, sandboxer=self._name)
        return platform_from_pb((await self._caller.call("Platform", request, pb.ControllerPlatformResponse)).platform)

    async def stop(self, id: str, timeout: float = 0.0) -> None:
        """End what runs in it; the protocol counts whole seconds."""
        request = pb.ControllerStopRequest(sandbox_id=id, timeout_secs=round(timeout), sandboxer=self._name)
        await self._caller.call("Stop", request, pb.ControllerStopResponse, timeout=TIMEOUT + timeout)

    async def wait(self, id: str) -> SandboxExit:
        """Returns when it has ended."""
        request = pb.ControllerWaitRequest(sandbox_id=id, sandboxer=self._name)
        response = await self._caller.call("Wait", request, pb.ControllerWaitResponse, timeout=None)
        return SandboxExit(response.exit_status, timestamp_from_pb(response.exited_at))

    async def status(self, id: str, verbose: bool = False) -> SandboxStatus:
        """How it is."""
        request = pb.ControllerStatusRequest(sandbox_id=id, verbose=verbose, sandboxer=self._name)
        return status_from_pb(await self._caller.call("Status", request, pb.ControllerStatusResponse))

    async def shutdown(self, id: str) -> None:
        """Remove all of it."""
        request = pb.ControllerShutdownRequest(sandbox_id=id, sandboxer=self._name)
        await self._caller.call("Shutdown", request, pb.ControllerShutdownResponse)

    async def metrics(self, id: str) -> Metric:
        """What it uses."""
        request = pb.ControllerMetricsRequest(sandbox_id=id, sandboxer=self._name)
        return metric_from_pb((await self._caller.call("Metrics", request, pb.ControllerMetricsResponse)).metrics)

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """Tell it that the record has changed."""
        request = pb.ControllerUpdateRequest(
            sandbox_id=id, sandboxer=self._name, sandbox=sandbox_to_pb(sandbox), fields=fieldpaths
        )
        await self._caller.call("Update", request, pb.ControllerUpdateResponse)
