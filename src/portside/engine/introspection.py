"""What this engine is: version, identity, plugins."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from portside.core.anymessage import AnyMessage
from portside.core.filters import Adaptor, FieldPath, compile_filters
from portside.core.introspection import Deprecation, PluginInfo, PluginStatus, ServerInfo, VersionInfo
from portside.errors import FailedPrecondition, NotFound, Unimplemented
from portside.version import __version__

PRODUCT = "portside"

Informer: TypeAlias = Callable[[AnyMessage], Awaitable[AnyMessage]]
"""What a plugin tells of itself, to those who ask with its kind of options."""


class LocalIntrospection:
    """``plugins`` stays the caller's list: the doors add theirs to it after the engine is built."""

    def __init__(
        self, uuid: str, plugins: list[PluginStatus], informers: Mapping[tuple[str, str], Informer] | None = None,
        deprecations: Callable[[], Sequence[Deprecation]] = tuple,
    ) -> None:  # fmt: skip
        """``informers`` by the plugin's type and id."""
        self._uuid, self._plugins = uuid, plugins
        self._informers, self._deprecations = informers or {}, deprecations

    async def version(self) -> VersionInfo:
        """Ours; the product's name is part of it, so that nobody takes us for another server."""
        return VersionInfo(f"{__version__}+{PRODUCT}", "")

    async def server(self) -> ServerInfo:
        """The uuid stays with the root."""
        return ServerInfo(self._uuid, os.getpid(), os.stat("/proc/self/ns/pid").st_ino, self._deprecations())

    async def plugins(self, filters: Sequence[str] = ()) -> Sequence[PluginStatus]:
        """Those that match any filter on ``type``, ``id``, ``platforms`` or ``capabilities``."""
        accepts = compile_filters(filters)
        return [plugin for plugin in self._plugins if accepts is None or accepts(_fields(plugin))]

    async def plugin_info(self, type: str, id: str, options: AnyMessage | None = None) -> PluginInfo:
        """See ``Introspection``."""
        found = [plugin for plugin in self._plugins if (plugin.type, plugin.id) == (type, id)]
        if not found:
            raise NotFound(f"plugin {type}.{id}: not found")
        if options is None:
            return PluginInfo(found[0])
        if found[0].error:
            raise FailedPrecondition(f"plugin {type}.{id}: it did not come up: {found[0].error}")
        informer = self._informers.get((type, id))
        if informer is None:
            raise Unimplemented(f"plugin {type}.{id}: it tells nothing of itself")
        return PluginInfo(found[0], await informer(options))


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
