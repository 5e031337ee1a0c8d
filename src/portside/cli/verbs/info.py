"""``portside info``: the daemon and the machine."""

from __future__ import annotations

from portside.cli.door import Door
from portside.cli.options import Verb
from portside.cli.table import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb("info", "", "Show the daemon and the machine.")


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    with Door(context) as door:
        info = door.call("Info", {})
    rows = (
        ("Version", f"{info['version']} ({info['revision']})" if info["revision"] else info["version"]),
        ("Containers", f"{info['containers']}, running: {info['running']}"),
        ("Images", info["images"]),
        ("Snapshotter", info["snapshotter"]),
        ("Cgroups", info["cgroup_version"]),
        ("Security", ", ".join(info["security"])),
        ("Kernel", info["kernel"]),
        ("Architecture", info["architecture"]),
        ("Processors", info["cpus"]),
        ("Memory", human_size(info["memory"])),
        ("Root", info["root"]),
        ("State", info["state"]),
        ("Python", info["python"]),
        ("Id", info["uuid"]),
    )
    for name, value in rows:
        print(f"{name + ':':<14} {value}")
    return 0
