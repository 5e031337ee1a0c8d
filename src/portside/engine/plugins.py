"""Which plugins there are: ours, and those of installed packages (entry points of the group ``portside.plugins``).

An entry point names a ``Plugin`` or a sequence of them (docs/plugins.md). One that cannot be loaded becomes a plugin
that fails with the reason, so that introspection shows it and the engine goes on without it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from portside.core.plugin import Init, Plugin
from portside.core.tables import check
from portside.engine.builtin import PLUGINS
from portside.errors import FailedPrecondition

log = logging.getLogger(__name__)

GROUP = "portside.plugins"
ENTRY_POINT = "io.portside.entry-point.v1"
"""The type under which an entry point is shown that gives no plugin."""


def registered() -> list[Plugin]:
    """All plugins; ours come first, and win where another has the same URI."""
    plugins = list(PLUGINS)
    taken = {plugin.uri: "portside" for plugin in plugins}
    for name, found in _entry_points():
        for plugin in found:
            if plugin.uri in taken:
                reason = f"{plugin.uri} is registered already, by {taken[plugin.uri]}"
                plugin = _failing(name, reason)
            taken[plugin.uri] = name
            plugins.append(plugin)
    return plugins


def _entry_points() -> Iterable[tuple[str, Sequence[Plugin]]]:
    if not _any_installed():
        return
    from importlib.metadata import entry_points

    # Sorted: the order of directories on disk must not decide who wins.
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        package = point.dist.name if point.dist is not None else "?"
        name = f"{package}.{point.name}"
        try:
            yield name, _checked(point.load(), point.value)
        except (Exception, SystemExit) as error:  # importing somebody else's code can raise anything
            log.warning("plugin package %s: entry point %s: %s", package, point.name, error)
            yield name, [_failing(name, f"{point.value}: {type(error).__name__}: {error}")]


def _any_installed() -> bool:
    """Whether looking is worth the 2 MB that ``importlib.metadata`` takes."""
    for directory in sys.path:
        for file in Path(directory or ".").glob("*.*-info/entry_points.txt"):
            try:
                if f"[{GROUP}]" in file.read_text(errors="replace"):
                    return True
            except OSError:
                continue
    return False


def _checked(value: Any, where: str) -> Sequence[Plugin]:
    plugins = [value] if isinstance(value, Plugin) else value
    if not isinstance(plugins, list | tuple) or not all(isinstance(plugin, Plugin) for plugin in plugins):
        raise TypeError(f"{where} is {value!r}, not a Plugin or a list of them")
    for plugin in plugins:
        if not plugin.id or "/" in plugin.uri or "." not in plugin.type:
            raise ValueError(f"{plugin.uri!r} is no URI for a plugin")
        if plugin.config is not None:
            check(plugin.config)
    return plugins


def _failing(name: str, reason: str) -> Plugin:
    def build(init: Init) -> Any:
        raise FailedPrecondition(reason)

    return Plugin(ENTRY_POINT, name, build)
