"""containerd.services.mounts.v1.Mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.api.context import bound, paths
from portside.convert.basics import mounts_from_pb
from portside.convert.mounts import activation_from_pb, activation_to_pb
from portside.core.services import Backend
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.mounts.v1 import mounts_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Mounts"]


class MountsService:
    """Activated mounts."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def activate(self, request: pb.ActivateRequest, call: Call) -> pb.ActivateResponse:
        """Make what must be made before a runtime can mount the rest."""
        manager = bound(self._backend, call).mounts
        mounts = mounts_from_pb(request.mounts)
        info = await manager.activate(request.name, mounts, dict(request.labels), request.temporary)
        return pb.ActivateResponse(info=activation_to_pb(info))

    async def deactivate(self, request: pb.DeactivateRequest, call: Call) -> empty_pb2.Empty:
        """Undo it."""
        await bound(self._backend, call).mounts.deactivate(request.name)
        return empty_pb2.Empty()

    async def info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        """One by name."""
        return pb.InfoResponse(info=activation_to_pb(await bound(self._backend, call).mounts.info(request.name)))

    async def update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        """Change labels."""
        manager = bound(self._backend, call).mounts
        info = await manager.update(activation_from_pb(request.info), paths(request.update_mask))
        return pb.UpdateResponse(info=activation_to_pb(info))

    async def list(self, request: pb.ListRequest, call: Call) -> AsyncIterator[pb.ListMessage]:
        """Those that match any filter, one message each."""
        for info in await bound(self._backend, call).mounts.list(tuple(request.filters)):
            yield pb.ListMessage(info=activation_to_pb(info))
