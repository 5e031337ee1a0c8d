"""The plugin graph: builds plugins in the order of their requirements and remembers what became of each.

A plugin that fails or does not fit this machine takes down those that require it and nobody else; all of them are
shown by introspection with their reason. Only what an owner requires by name (``check_required``) must come up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from portside.core.introspection import PluginStatus
from portside.core.plugin import Init, Plugin, SkipPlugin
from portside.core.tables import decode
from portside.errors import FailedPrecondition, PortsideError
from portside.oci.platform import host_platform

log = logging.getLogger(__name__)


class PluginGraph:
    """The plugins of one engine, after ``build``."""

    def __init__(self, root: Path, state: Path, config: Mapping[str, Mapping[str, Any]]) -> None:
        self._root, self._state, self._config = root, state, config
        self._built: dict[str, dict[str, Any]] = {}
        self._status: list[PluginStatus] = []
        self._disabled: set[str] = set()

    @property
    def status(self) -> Sequence[PluginStatus]:
        """All plugins, in the order in which they were built."""
        return self._status

    def get(self, name: str) -> Any:
        """The plugin of this URI, or the first of this type, that came up; FailedPrecondition with the reason."""
        for instance in self._instances(name):
            return instance
        raise FailedPrecondition(f"plugin {name}: {self._why_not(name)}")

    def all(self, type: str) -> Mapping[str, Any]:
        """All plugins of ``type`` that came up, by id."""
        return self._built.get(type, {})

    def build(self, plugins: Iterable[Plugin], disabled: Iterable[str] = (), required: Iterable[str] = ()) -> None:
        """Build all but ``disabled``; a ``required`` URI that does not come up is FailedPrecondition."""
        self._disabled = set(disabled)
        known: dict[str, Plugin] = {}
        for plugin in plugins:
            if plugin.uri in self._disabled:
                continue
            if plugin.uri in known:
                log.error("plugin %s is registered twice; the first is used", plugin.uri)
                continue
            known[plugin.uri] = plugin
        for plugin, circle in order(known.values()):
            self._build(plugin, circle)
        check_required(required, self._status, self._disabled)

    def _build(self, plugin: Plugin, circle: str) -> None:
        error, skipped, exports = circle, False, {}
        missing = [f"requires {need}: {self._why_not(need)}" for need in plugin.requires if not self._has(need)]
        if not circle and missing:
            error = "; ".join(missing)
        elif not circle:
            try:
                exports = self._start(plugin)
            except SkipPlugin as reason:
                error, skipped = str(reason) or "not for this machine", True
            except (PortsideError, OSError) as failure:
                error = str(failure)
            except (Exception, SystemExit) as failure:  # whatever somebody else's code raises stays with it
                error = f"{type(failure).__name__}: {failure}"
                log.error("plugin %s", plugin.uri, exc_info=failure)
        if skipped:
            log.info("plugin %s skipped: %s", plugin.uri, error)
        elif error:
            log.warning("plugin %s failed: %s", plugin.uri, error)
        platforms = tuple(plugin.platforms) or (host_platform(),)
        status = PluginStatus(plugin.type, plugin.id, tuple(plugin.requires), platforms, exports)
        self._status.append(replace(status, capabilities=plugin.capabilities, error=error, skipped=skipped))

    def _start(self, plugin: Plugin) -> dict[str, str]:
        """Build ``plugin`` and keep the instance; what it exports."""
        table = self._config.get(plugin.uri, {})
        settings = decode(plugin.config, table, f"plugins.'{plugin.uri}'") if plugin.config else None
        init = Init(self._root / plugin.uri, self._state / plugin.uri, table, self.get, self.all, settings)
        instance = plugin.build(init)
        exports = dict(plugin.exports(init))
        self._built.setdefault(plugin.type, {})[plugin.id] = instance
        return exports

    def _has(self, need: str) -> bool:
        return any(True for _ in self._instances(need))

    def _instances(self, name: str) -> Iterator[Any]:
        yield from self._built.get(name, {}).values()
        type, _, id = name.rpartition(".")
        if id in self._built.get(type, {}):
            yield self._built[type][id]

    def _why_not(self, name: str) -> str:
        reasons = [
            f"{status.id}: {status.error}"
            for status in self._status
            if status.error and name in (status.type, f"{status.type}.{status.id}")
        ]
        reasons += [f"{uri} is disabled" for uri in sorted(self._disabled) if name in (uri, uri.rpartition(".")[0])]
        return "; ".join(reasons) or "not registered"


def check_required(required: Iterable[str], plugins: Iterable[PluginStatus], disabled: Iterable[str] = ()) -> None:
    """FailedPrecondition, naming each ``required`` URI that is not among ``plugins`` or did not come up."""
    errors = {f"{status.type}.{status.id}": status.error for status in plugins}
    off = set(disabled)
    failed = [
        f"{uri}: {'disabled' if uri in off else errors.get(uri, 'not registered')}"
        for uri in required
        if uri in off or errors.get(uri, "not registered")
    ]
    if failed:
        raise FailedPrecondition(f"required plugin {', '.join(failed)}")


def order(plugins: Iterable[Plugin]) -> Iterator[tuple[Plugin, str]]:
    """``plugins``, every one after those it requires or comes after, otherwise as given; with "" for each.

    Of a circle the plugin that was given last comes with a sentence that names the circle, and cannot be built.
    """
    waiting = list(plugins)
    while waiting:
        ready = [plugin for plugin in waiting if not _awaited(plugin, waiting)]
        if ready:
            yield from ((plugin, "") for plugin in ready)
            waiting = [plugin for plugin in waiting if plugin not in ready]
            continue
        circle = _circle(waiting)
        last = max(circle, key=waiting.index)
        start = circle.index(last)
        names = [plugin.uri for plugin in [*circle[start:], *circle[:start], last]]
        yield last, f"plugins require each other: {' → '.join(names)}"
        waiting.remove(last)


def _awaited(plugin: Plugin, waiting: Sequence[Plugin]) -> list[Plugin]:
    needs = {*plugin.requires, *plugin.after}
    return [other for other in waiting if other is not plugin and (other.type in needs or other.uri in needs)]


def _circle(waiting: Sequence[Plugin]) -> list[Plugin]:
    """One circle among plugins that all wait for others."""
    path = [waiting[0]]
    while True:
        following = _awaited(path[-1], waiting)[0]
        if following in path:
            return path[path.index(following) :]
        path.append(following)
