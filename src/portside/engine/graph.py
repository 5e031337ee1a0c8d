"""The plugin graph: builds plugins in the order of their requirements and remembers what became of each.

A plugin that fails or does not fit this machine takes down those that require it and nobody else; all of them are
shown by introspection with their reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from portside.core.introspection import PluginStatus
from portside.core.plugin import Init, Plugin, SkipPlugin
from portside.errors import FailedPrecondition, InvalidArgument, PortsideError
from portside.oci.platform import host_platform

log = logging.getLogger(__name__)


class PluginGraph:
    """The plugins of one engine, after ``build``."""

    def __init__(self, root: Path, state: Path, config: Mapping[str, Mapping[str, Any]]) -> None:
        self._root, self._state, self._config = root, state, config
        self._built: dict[str, dict[str, Any]] = {}
        self._status: list[PluginStatus] = []

    @property
    def status(self) -> Sequence[PluginStatus]:
        """All plugins, in the order in which they were built."""
        return self._status

    def get(self, type: str) -> Any:
        """The one plugin of ``type`` that came up; FailedPrecondition with the reason if there is none."""
        instances = self._built.get(type)
        if not instances:
            reasons = [f"{plugin.id}: {plugin.error}" for plugin in self._status if plugin.type == type]
            raise FailedPrecondition(f"plugin {type}: {'; '.join(reasons) or 'not registered'}")
        return next(iter(instances.values()))

    def all(self, type: str) -> Mapping[str, Any]:
        """All plugins of ``type`` that came up, by id."""
        return self._built.get(type, {})

    def build(self, plugins: Iterable[Plugin], disabled: Iterable[str] = (), required: Iterable[str] = ()) -> None:
        """Build all but ``disabled``; a ``required`` URI that does not come up is FailedPrecondition."""
        off = set(disabled)
        for plugin in order(plugin for plugin in plugins if plugin.uri not in off):
            self._build(plugin)
        failed = {f"{status.type}.{status.id}": status.error for status in self._status if status.error}
        present = {f"{status.type}.{status.id}" for status in self._status}
        for uri in required:
            if uri in failed or uri not in present:
                raise FailedPrecondition(f"required plugin {uri}: {failed.get(uri, 'not registered or disabled')}")

    def _build(self, plugin: Plugin) -> None:
        init = Init(
            self._root / plugin.uri, self._state / plugin.uri, self._config.get(plugin.uri, {}), self.get, self.all
        )
        error, skipped, exports = "", False, {}
        try:
            instance = plugin.build(init)
            exports = dict(plugin.exports(init))
            self._built.setdefault(plugin.type, {})[plugin.id] = instance
        except SkipPlugin as reason:
            error, skipped = str(reason), True
            log.info("plugin %s skipped: %s", plugin.uri, reason)
        except (PortsideError, OSError) as failure:
            error = str(failure)
            log.warning("plugin %s failed: %s", plugin.uri, failure)
        status = PluginStatus(plugin.type, plugin.id, tuple(plugin.requires), (host_platform(),), exports)
        self._status.append(replace(status, capabilities=plugin.capabilities, error=error, skipped=skipped))


def order(plugins: Iterable[Plugin]) -> list[Plugin]:
    """``plugins`` with every plugin after those it requires, otherwise as given; InvalidArgument for a circle."""
    waiting = list(plugins)
    done: list[Plugin] = []
    while waiting:
        ready = [
            plugin
            for plugin in waiting
            if not any(_matches(need, other) for need in plugin.requires for other in waiting if other is not plugin)
        ]
        if not ready:
            raise InvalidArgument(f"plugins require each other: {', '.join(plugin.uri for plugin in waiting)}")
        done += ready
        waiting = [plugin for plugin in waiting if plugin not in ready]
    return done


def _matches(need: str, plugin: Plugin) -> bool:
    return need in (plugin.type, plugin.uri)
