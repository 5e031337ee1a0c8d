"""``portside rmi``: remove images."""

from __future__ import annotations

import sys

from portside.cli.door import Door
from portside.cli.options import Option, Verb
from portside.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "rmi",
    "IMAGE...",
    "Remove images; what they alone kept on disk is freed.",
    (Option("-f", "--force", help="also if containers were made from them"),),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 if all of them could be removed."""
    status = 0
    with Door(context) as door:
        for name in arguments:
            try:
                removed = door.call("RemoveImage", {"image": name, "force": values["force"]})["removed"]
                for line in removed:
                    print(f"Removed: {line}")
            except PortsideError as error:
                print(f"portside: {error}", file=sys.stderr)
                status = 1
    return status
