"""containerd.services.leases.v1.Leases."""

from __future__ import annotations

import secrets
import time

from portside.api.context import bound
from portside.convert.records import lease_to_pb, resource_from_pb, resource_to_pb
from portside.core.services import Backend
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.leases.v1 import leases_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Leases"]


class LeasesService:
    """Leases and what they hold."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def create(self, request: pb.CreateRequest, call: Call) -> pb.CreateResponse:
        """Make one; without an id it gets a random one."""
        id = request.id or f"{time.time_ns()}-{secrets.token_urlsafe(3).replace('-', 'x').replace('_', 'y')}"
        lease = await bound(self._backend, call).leases.create(id, dict(request.labels))
        return pb.CreateResponse(lease=lease_to_pb(lease))

    async def delete(self, request: pb.DeleteRequest, call: Call) -> empty_pb2.Empty:
        """Let go of everything it holds."""
        await bound(self._backend, call).leases.delete(request.id, request.sync)
        return empty_pb2.Empty()

    async def list(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        """Those that match any filter."""
        leases = await bound(self._backend, call).leases.list(tuple(request.filters))
        return pb.ListResponse(leases=[lease_to_pb(lease) for lease in leases])

    async def add_resource(self, request: pb.AddResourceRequest, call: Call) -> empty_pb2.Empty:
        """Hold something."""
        await bound(self._backend, call).leases.add_resource(request.id, resource_from_pb(request.resource))
        return empty_pb2.Empty()

    async def delete_resource(self, request: pb.DeleteResourceRequest, call: Call) -> empty_pb2.Empty:
        """Let go of something."""
        await bound(self._backend, call).leases.delete_resource(request.id, resource_from_pb(request.resource))
        return empty_pb2.Empty()

    async def list_resources(self, request: pb.ListResourcesRequest, call: Call) -> pb.ListResourcesResponse:
        """What it holds."""
        resources = await bound(self._backend, call).leases.list_resources(request.id)
        return pb.ListResourcesResponse(resources=[resource_to_pb(resource) for resource in resources])
