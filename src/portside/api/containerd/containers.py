"""containerd.services.containers.v1.Containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.api.context import bound, paths
from portside.convert.records import container_from_pb, container_to_pb
from portside.core.services import Backend
from portside.wire.grpc.service import Call, inline
from portside.wire.pb.containerd.services.containers.v1 import containers_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Containers"]


class ContainersService:
    """Records of containers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @inline
    async def get(self, request: pb.GetContainerRequest, call: Call) -> pb.GetContainerResponse:
        """One by id."""
        container = await bound(self._backend, call).containers.get(request.id)
        return pb.GetContainerResponse(container=container_to_pb(container))

    @inline
    async def list(self, request: pb.ListContainersRequest, call: Call) -> pb.ListContainersResponse:
        """Those that match any filter."""
        containers = await bound(self._backend, call).containers.list(tuple(request.filters))
        return pb.ListContainersResponse(containers=[container_to_pb(container) for container in containers])

    async def list_stream(
        self, request: pb.ListContainersRequest, call: Call
    ) -> AsyncIterator[pb.ListContainerMessage]:
        """The same, one message each, so that many fit."""
        for container in await bound(self._backend, call).containers.list(tuple(request.filters)):
            yield pb.ListContainerMessage(container=container_to_pb(container))

    async def create(self, request: pb.CreateContainerRequest, call: Call) -> pb.CreateContainerResponse:
        """Make a record."""
        container = await bound(self._backend, call).containers.create(container_from_pb(request.container))
        return pb.CreateContainerResponse(container=container_to_pb(container))

    async def update(self, request: pb.UpdateContainerRequest, call: Call) -> pb.UpdateContainerResponse:
        """Change what the mask names."""
        store = bound(self._backend, call).containers
        container = await store.update(container_from_pb(request.container), paths(request.update_mask))
        return pb.UpdateContainerResponse(container=container_to_pb(container))

    async def delete(self, request: pb.DeleteContainerRequest, call: Call) -> empty_pb2.Empty:
        """Remove a record."""
        await bound(self._backend, call).containers.delete(request.id)
        return empty_pb2.Empty()
