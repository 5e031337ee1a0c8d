"""``portside stats``: what containers use."""

from __future__ import annotations

import sys

from portside.cli.door import Door
from portside.cli.options import Option, Verb
from portside.cli.table import human_size, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "stats",
    "[CONTAINER...]",
    "Show what containers use, again and again until interrupted.",
    (
        Option("--no-stream", help="once only"),
        Option("-a", "--all", help="also containers that do not run"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    request = {"containers": arguments, "all": values["all"], "follow": not values["no_stream"]}
    with Door(context) as door:
        for round in door.stream("Stats", request):
            if not values["no_stream"] and sys.stdout.isatty():
                sys.stdout.write("\x1b[H\x1b[2J")
            print_table(
                ("CONTAINER ID", "NAME", "CPU %", "MEMORY / LIMIT", "PIDS", "BLOCK READ / WRITTEN"),
                [_row(container) for container in round["containers"]],
            )
            sys.stdout.flush()
    return 0


def _row(container: Mapping[str, Any]) -> tuple[str, ...]:
    # Cgroup v1 says "no limit" with a number near 2^63.
    limit = human_size(container["memory_limit"]) if 0 < container["memory_limit"] < 1 << 60 else "none"
    return (
        container["id"][:12],
        container["name"],
        f"{container['cpu_percent']:.1f}",
        f"{human_size(container['memory'])} / {limit}",
        str(container["pids"]),
        f"{human_size(container['read_bytes'])} / {human_size(container['written_bytes'])}",
    )
