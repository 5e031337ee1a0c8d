"""What this engine is: version, identity, plugins."""

from __future__ import annotations

import os
from collections.abc import Sequence

from portside.core.filters import Adaptor, FieldPath, compile_filters
from portside.core.introspection import PluginStatus, ServerInfo, VersionInfo
from portside.version import __version__

PRODUCT = "portside"


class LocalIntrospection:
    """``plugins`` stays the caller's list: the doors add theirs to it after the engine is built."""

    def __init__(self, uuid: str, plugins: list[PluginStatus]) -> None:
        self._uuid, self._plugins = uuid, plugins

    async def version(self) -> VersionInfo:
        """Ours; the product's name is part of it, so that nobody takes us for another server."""
        return VersionInfo(f"{__version__}+{PRODUCT}", "")

    async def server(self) -> ServerInfo:
        """The uuid stays with the root."""
        return ServerInfo(self._uuid, os.getpid(), os.stat("/proc/self/ns/pid").st_ino)

    async def plugins(self, filters: Sequence[str] = ()) -> Sequence[PluginStatus]:
        """Those that match any filter on ``type``, ``id``, ``platforms`` or ``capabilities``."""
        accepts = compile_filters(filters)
        return [plugin for plugin in self._plugins if accepts is None or accepts(_fields(plugin))]


def _fields(plugin: PluginStatus) -> Adaptor:
    def field(path: FieldPath) -> str | None:
        values = {
            "type": plugin.type,
            "id": plugin.id,
            "platforms": ",".join(str(platform) for platform in plugin.platforms),
            "capabilities": ",".join(plugin.capabilities),
        }
        return values.get(path[0]) if len(path) == 1 else None

    return field
