"""containerd.services.introspection.v1.Introspection and …version.v1.Version as ``Introspection``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.convert.basics import any_from_pb, any_to_pb
from portside.convert.running import deprecation_from_pb, plugin_from_pb
from portside.core.anymessage import AnyMessage
from portside.core.introspection import PluginInfo, PluginStatus, ServerInfo, VersionInfo
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.introspection.v1 import introspection_pb2 as pb
from portside.wire.pb.containerd.services.version.v1 import version_pb2
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = "containerd.services.introspection.v1.Introspection"
VERSION_SERVICE = "containerd.services.version.v1.Version"


class RemoteIntrospection:
    """The server as a whole."""

    def __init__(self, channel: Channel) -> None:
        self._caller = Caller(channel, SERVICE)
        self._version = Caller(channel, VERSION_SERVICE)

    async def version(self) -> VersionInfo:
        """Its version."""
        response = await self._version.call("Version", empty_pb2.Empty(), version_pb2.VersionResponse)
        return VersionInfo(response.version, response.revision)

    async def server(self) -> ServerInfo:
        """Its identity; a server before containerd 1.7 tells its uuid only, and the numbers are 0."""
        response = await self._caller.call("Server", empty_pb2.Empty(), pb.ServerResponse)
        deprecations = tuple(map(deprecation_from_pb, response.deprecations))  # type: ignore[arg-type]
        return ServerInfo(response.uuid, response.pid, response.pidns, deprecations)

    async def plugins(self, filters: Sequence[str] = ()) -> Sequence[PluginStatus]:
        """Its plugins."""
        response = await self._caller.call("Plugins", pb.PluginsRequest(filters=filters), pb.PluginsResponse)
        return [plugin_from_pb(plugin) for plugin in response.plugins]

    async def plugin_info(self, type: str, id: str, options: AnyMessage | None = None) -> PluginInfo:
        """One plugin; Unimplemented by servers before containerd 2.0."""
        request = pb.PluginInfoRequest(type=type, id=id, options=any_to_pb(options))
        response = await self._caller.call("PluginInfo", request, pb.PluginInfoResponse)
        return PluginInfo(plugin_from_pb(response.plugin), any_from_pb(response.extra))
