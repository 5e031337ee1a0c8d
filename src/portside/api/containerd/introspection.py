"""containerd.services.introspection.v1.Introspection."""

from __future__ import annotations

from portside.convert.basics import any_from_pb, any_to_pb
from portside.convert.running import deprecation_to_pb, plugin_to_pb
from portside.core.services import Backend
from portside.wire.grpc.service import Call, inline
from portside.wire.pb.containerd.services.introspection.v1 import introspection_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Introspection"]


class IntrospectionService:
    """The server and its plugins."""

    def __init__(self, backend: Backend) -> None:
        self._introspection = backend.introspection

    @inline
    async def plugins(self, request: pb.PluginsRequest, call: Call) -> pb.PluginsResponse:
        """All plugins, failed ones too."""
        plugins = await self._introspection.plugins(tuple(request.filters))
        return pb.PluginsResponse(plugins=[plugin_to_pb(plugin) for plugin in plugins])

    @inline
    async def server(self, request: empty_pb2.Empty, call: Call) -> pb.ServerResponse:
        """Its identity."""
        server = await self._introspection.server()
        deprecations = [deprecation_to_pb(deprecation) for deprecation in server.deprecations]
        return pb.ServerResponse(uuid=server.uuid, pid=server.pid, pidns=server.pidns, deprecations=deprecations)

    async def plugin_info(self, request: pb.PluginInfoRequest, call: Call) -> pb.PluginInfoResponse:
        """One plugin, and what it tells of itself."""
        info = await self._introspection.plugin_info(request.type, request.id, any_from_pb(request.options))
        return pb.PluginInfoResponse(plugin=plugin_to_pb(info.plugin), extra=any_to_pb(info.extra))
