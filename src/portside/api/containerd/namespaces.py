"""containerd.services.namespaces.v1.Namespaces."""

from __future__ import annotations

from collections.abc import Mapping

from portside.api.context import paths
from portside.core.services import Backend
from portside.errors import InvalidArgument, NotFound
from portside.wire.grpc.service import Call, inline
from portside.wire.pb.containerd.services.namespaces.v1 import namespace_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Namespaces"]


class NamespacesService:
    """Namespaces and their labels."""

    def __init__(self, backend: Backend) -> None:
        self._namespaces = backend.namespaces

    async def _namespace(self, name: str) -> pb.Namespace:
        return pb.Namespace(name=name, labels=await self._labels(name))

    async def _labels(self, name: str) -> Mapping[str, str]:
        try:
            return await self._namespaces.labels(name)
        except NotFound:
            return {}

    @inline
    async def get(self, request: pb.GetNamespaceRequest, call: Call) -> pb.GetNamespaceResponse:
        """One by name; one that is not there yet has no labels.

        Clients look for the default snapshotter among the labels before they make the namespace's first object.
        """
        return pb.GetNamespaceResponse(namespace=await self._namespace(request.name))

    @inline
    async def list(self, request: pb.ListNamespacesRequest, call: Call) -> pb.ListNamespacesResponse:
        """All of them."""
        names = await self._namespaces.list()
        return pb.ListNamespacesResponse(namespaces=[await self._namespace(name) for name in names])

    async def create(self, request: pb.CreateNamespaceRequest, call: Call) -> pb.CreateNamespaceResponse:
        """Make one."""
        await self._namespaces.create(request.namespace.name, dict(request.namespace.labels))
        return pb.CreateNamespaceResponse(namespace=await self._namespace(request.namespace.name))

    async def update(self, request: pb.UpdateNamespaceRequest, call: Call) -> pb.UpdateNamespaceResponse:
        """Set labels: those named by ``labels.<key>``, or replace all of them."""
        name, labels = request.namespace.name, dict(request.namespace.labels)
        mask = paths(request.update_mask)
        if any(path != "labels" and not path.startswith("labels.") for path in mask):
            raise InvalidArgument(f"update namespace {name}: only labels can change, not {', '.join(mask)}")
        if not mask or "labels" in mask:
            changes = dict.fromkeys(await self._labels(name), "") | labels
        else:
            changes = {key: labels.get(key, "") for key in (path.removeprefix("labels.") for path in mask)}
        for key, value in changes.items():
            await self._namespaces.set_label(name, key, value)
        return pb.UpdateNamespaceResponse(namespace=await self._namespace(name))

    async def delete(self, request: pb.DeleteNamespaceRequest, call: Call) -> empty_pb2.Empty:
        """Remove an empty one."""
        await self._namespaces.delete(request.name)
        return empty_pb2.Empty()
