"""``portside images``: list images."""

from __future__ import annotations

import time

from portside.cli.door import Door
from portside.cli.options import Option, Verb
from portside.cli.table import human_age, human_size, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "images",
    "[NAME]",
    "List images.",
    (
        Option("-q", "--quiet", help="ids only"),
        Option("--digests", help="the digest of what each name points at"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    with Door(context) as door:
        images = door.call("Images", {"name": arguments[0] if arguments else ""})["images"]
    if values["quiet"]:
        for image in images:
            print(image["id"].removeprefix("sha256:")[:12])
        return 0
    head = ["IMAGE", "ID", "CREATED", "SIZE"] + (["DIGEST"] if values["digests"] else [])
    rows = [
        [
            image["name"],
            image["id"].removeprefix("sha256:")[:12],
            human_age(time.time() - image["created_ns"] / 1e9) + " ago",
            human_size(image["size"]),
        ]
        + ([image["digest"]] if values["digests"] else [])
        for image in images
    ]
    print_table(head, rows)
    return 0
