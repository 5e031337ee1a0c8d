"""containerd.services.namespaces.v1.Namespaces as a ``NamespaceStore``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portside.errors import NotFound
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.namespaces.v1 import namespace_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2, field_mask_pb2

SERVICE = "containerd.services.namespaces.v1.Namespaces"


class RemoteNamespaces:
    """All namespaces of the server."""

    def __init__(self, channel: Channel) -> None:
        self._caller = Caller(channel, SERVICE, "default")  # upstream publishes the event of a change there

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Make one."""
        request = pb.CreateNamespaceRequest(namespace=pb.Namespace(name=name, labels=labels))
        await self._caller.call("Create", request, pb.CreateNamespaceResponse)

    async def labels(self, name: str) -> Mapping[str, str]:
        """Its labels; upstream has none for a namespace that does not exist, so that is asked as well."""
        response = await self._caller.call("Get", pb.GetNamespaceRequest(name=name), pb.GetNamespaceResponse)
        if not response.namespace.labels and name not in await self.list():
            raise NotFound(f"namespace {name}: not found")
        return dict(response.namespace.labels)

    async def set_label(self, name: str, key: str, value: str) -> None:
        """One label; an empty value removes it."""
        request = pb.UpdateNamespaceRequest(
            namespace=pb.Namespace(name=name, labels={key: value}),
            update_mask=field_mask_pb2.FieldMask(paths=[f"labels.{key}"]),
        )
        await self._caller.call("Update", request, pb.UpdateNamespaceResponse)

    async def list(self) -> Sequence[str]:
        """Their names."""
        response = await self._caller.call("List", pb.ListNamespacesRequest(), pb.ListNamespacesResponse)
        return [namespace.name for namespace in response.namespaces]

    async def delete(self, name: str) -> None:
        """Remove an empty one."""
        await self._caller.call("Delete", pb.DeleteNamespaceRequest(name=name), empty_pb2.Empty)
