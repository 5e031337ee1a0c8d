"""containerd.services.leases.v1.Leases as a ``LeaseManager``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portside.convert.records import lease_from_pb, resource_from_pb, resource_to_pb
from portside.core.leases import Lease, Resource
from portside.remote.caller import TIMEOUT, Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.leases.v1 import leases_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = "containerd.services.leases.v1.Leases"


class RemoteLeases:
    """The leases of one namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def create(self, id: str, labels: Mapping[str, str] | None = None) -> Lease:
        """Make one."""
        response = await self._caller.call("Create", pb.CreateRequest(id=id, labels=labels), pb.CreateResponse)
        return lease_from_pb(response.lease)

    async def delete(self, id: str, sync: bool = False) -> None:
        """End one."""
        request = pb.DeleteRequest(id=id, sync=sync)
        await self._caller.call("Delete", request, empty_pb2.Empty, None if sync else TIMEOUT)

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Those that match."""
        response = await self._caller.call("List", pb.ListRequest(filters=filters), pb.ListResponse)
        return [lease_from_pb(lease) for lease in response.leases]

    async def add_resource(self, id: str, resource: Resource) -> None:
        """Hold by hand."""
        request = pb.AddResourceRequest(id=id, resource=resource_to_pb(resource))
        await self._caller.call("AddResource", request, empty_pb2.Empty)

    async def delete_resource(self, id: str, resource: Resource) -> None:
        """Let go of it."""
        request = pb.DeleteResourceRequest(id=id, resource=resource_to_pb(resource))
        await self._caller.call("DeleteResource", request, empty_pb2.Empty)

    async def list_resources(self, id: str) -> Sequence[Resource]:
        """What it holds."""
        response = await self._caller.call("ListResources", pb.ListResourcesRequest(id=id), pb.ListResourcesResponse)
        return [resource_from_pb(resource) for resource in response.resources]
