"""containerd.services.containers.v1.Containers as a ``ContainerStore``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.convert.records import container_from_pb, container_to_pb
from portside.core.containers import Container
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.containers.v1 import containers_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2, field_mask_pb2

SERVICE = "containerd.services.containers.v1.Containers"


class RemoteContainers:
    """The containers of one namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def get(self, id: str) -> Container:
        """One by id."""
        response = await self._caller.call("Get", pb.GetContainerRequest(id=id), pb.GetContainerResponse)
        return container_from_pb(response.container)

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Those that match; streamed, since specs are large and a message is not."""
        request = pb.ListContainersRequest(filters=filters)
        answers = self._caller.answers("ListStream", request, pb.ListContainerMessage)
        return [container_from_pb(answer.container) async for answer in answers]

    async def create(self, container: Container) -> Container:
        """Make a record."""
        request = pb.CreateContainerRequest(container=container_to_pb(container))
        return container_from_pb((await self._caller.call("Create", request, pb.CreateContainerResponse)).container)

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """Change what the paths name."""
        mask = field_mask_pb2.FieldMask(paths=fieldpaths)
        request = pb.UpdateContainerRequest(container=container_to_pb(container), update_mask=mask)
        return container_from_pb((await self._caller.call("Update", request, pb.UpdateContainerResponse)).container)

    async def delete(self, id: str) -> None:
        """Remove a record."""
        await self._caller.call("Delete", pb.DeleteContainerRequest(id=id), empty_pb2.Empty)
