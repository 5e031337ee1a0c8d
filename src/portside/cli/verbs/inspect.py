"""``portside inspect``: everything about containers or images."""

from __future__ import annotations

from portside.cli.door import Door
from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "inspect",
    "NAME...",
    "Show everything about containers or images, as JSON.",
    (Option("--type", value="KIND", help="container or image"),),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    import json

    with Door(context) as door:
        documents = [
            json.loads(door.call("Inspect", {"name": name, "kind": values["type"]})["json"]) for name in arguments
        ]
    print(json.dumps(documents, indent=4))
    return 0
