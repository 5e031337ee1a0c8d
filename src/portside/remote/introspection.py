"""containerd.services.introspection.v1.Introspection and …version.v1.Version as ``Introspection``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.convert.running import plugin_from_pb
from portside.core.introspection import PluginStatus, ServerInfo, VersionInfo
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
        return ServerInfo(response.uuid, response.pid, response.pidns)

    async def plugins(self, filters: Sequence[str] = ()) -> Sequence[PluginStatus]:
        """Its plugins."""
        response = await self._caller.call("Plugins", pb.PluginsRequest(filters=filters), pb.PluginsResponse)
        return [plugin_from_pb(plugin) for plugin in response.plugins]
