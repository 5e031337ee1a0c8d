"""``ctr plugins``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, Values, command
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.core.introspection import PluginStatus

_DETAILED = Option("-d", "--detailed", help="everything about each plugin")


@command("list", "[FILTER...]", "list plugins", QUIET, _DETAILED, aliases=("ls",))
async def list_plugins(session: Session, values: Values, words: Sequence[str]) -> None:
    """With their state."""
    plugins = await session.backend.introspection.plugins(list(words))
    if values["quiet"]:
        for plugin in plugins:
            print(plugin.id)
    elif values["detailed"]:
        for plugin in plugins:
            _print_detailed(plugin)
    else:
        rows = [(p.type, p.id, ",".join(str(platform) for platform in p.platforms) or "-", _state(p)) for p in plugins]
        print_table(("TYPE", "ID", "PLATFORMS", "STATUS"), rows)


def _state(plugin: PluginStatus) -> str:
    return "skip" if plugin.skipped else "error" if plugin.error else "ok"


def _print_detailed(plugin: PluginStatus) -> None:
    rows = [
        ("Type:", plugin.type), ("ID:", plugin.id), ("Requires:", ", ".join(plugin.requires)),
        ("Platforms:", ", ".join(str(platform) for platform in plugin.platforms)),
        ("Exports:", ", ".join(f"{key}={value}" for key, value in plugin.exports.items())),
        ("Capabilities:", ", ".join(plugin.capabilities)), ("Error:", plugin.error),
    ]  # fmt: skip
    for name, value in rows:
        if value:
            print(f"{name:<14} {value}")
    print()


COMMANDS = (list_plugins,)
