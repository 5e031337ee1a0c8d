"""``portside ps``: list containers."""

from __future__ import annotations

import time

from portside.cli.door import Door
from portside.cli.options import Option, Verb
from portside.cli.table import human_age, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "ps",
    "",
    "List containers: those that run, or all.",
    (
        Option("-a", "--all", help="also those that do not run"),
        Option("-q", "--quiet", help="ids only"),
        Option("--no-trunc", help="whole ids and commands"),
        Option("-f", "--filter", value="KEY=VALUE", many=True, help="id, name, label, status or exited"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    with Door(context) as door:
        containers = door.call("List", {"all": values["all"], "filters": values["filter"]})["containers"]
    whole = values["no_trunc"]
    if values["quiet"]:
        for container in containers:
            print(container["id"] if whole else container["id"][:12])
        return 0
    rows = [
        (
            container["id"] if whole else container["id"][:12],
            container["image"],
            container["command"] if whole or len(container["command"]) < 30 else container["command"][:27] + "…",
            human_age(time.time() - container["created_ns"] / 1e9) + " ago",
            _state(container),
            container["name"],
        )
        for container in containers
    ]
    print_table(("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"), rows)
    return 0


def _state(container: Mapping[str, Any]) -> str:
    state = str(container["state"])
    if state == "exited":
        return f"Exited ({container['exit_status']}) {human_age(time.time() - container['exited_ns'] / 1e9)} ago"
    return state.capitalize()
