"""``portside pull``: fetch an image from a registry."""

from __future__ import annotations

from portside.cli.door import Door
from portside.cli.options import Option, Verb
from portside.cli.progress import follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

REGISTRY_OPTIONS = (
    Option("--platform", value="OS/ARCH", help="which of the image's platforms"),
    Option("--plain-http", help="without TLS"),
    Option("-u", "--user", value="USER:PASSWORD", help="credentials; otherwise those of docker login"),
    Option("-q", "--quiet", help="no progress, only the result"),
)

VERB = Verb(
    "pull",
    "IMAGE",
    "Fetch an image from a registry and unpack it.",
    (*REGISTRY_OPTIONS, Option("--snapshotter", value="NAME", help="where it is unpacked")),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    request = registry_request(values, arguments[0]) | {"snapshotter": values["snapshotter"]}
    with Door(context) as door:
        done = follow(door.stream("Pull", request), quiet=values["quiet"])
    print(f"{done['name']}@{done['digest']}")
    return 0


def registry_request(values: dict[str, Any], image: str) -> dict[str, Any]:
    """What pull and push ask alike."""
    user, _, password = values["user"].partition(":")
    same = {key: values[key] for key in ("platform", "plain_http")}
    return {"image": image, "user": user, "password": password, **same}
