"""``portside push``: send an image to a registry."""

from __future__ import annotations

from portside.cli.door import Door
from portside.cli.options import Verb
from portside.cli.progress import follow
from portside.cli.verbs.pull import REGISTRY_OPTIONS, registry_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb("push", "IMAGE", "Send an image to the registry that its name says.", REGISTRY_OPTIONS)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    with Door(context) as door:
        done = follow(door.stream("Push", registry_request(values, arguments[0])), quiet=values["quiet"])
    print(f"{done['name']}@{done['digest']}")
    return 0
