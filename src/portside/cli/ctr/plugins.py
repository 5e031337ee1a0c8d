"""``ctr plugins``."""

from __future__ import annotations

from portside.cli.ctr.command import QUIET, Session, command, plain
from portside.cli.ctr.runtime import RUNTIME_OPTIONS, runtime_options
from portside.cli.ctr.text import WIDE, print_table
from portside.cli.ctr.version import INTROSPECTION
from portside.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from portside.cli.ctr.grammar import Values

_CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
_SKIPPED = "skip plugin"


@plain("[FILTER...]", QUIET, Option("-d", "--detailed", help="everything about each plugin"))
def list_plugins(session: Session, values: Values, words: Sequence[str]) -> None:
    """With their state."""
    plugins = session.ask(INTROSPECTION, "Plugins", {"filters": list(words)})["plugins"]
    if values["quiet"]:
        for plugin in plugins:
            print(plugin["id"])
    elif values["detailed"]:
        lines: list[str] = []
        for plugin in plugins:
            lines += [*(["\t\t\t"] if lines else []), *_details(plugin)]
        print_table(lines, WIDE)
    else:
        rows = (f"{p['type']}\t{p['id']}\t{_platforms(p) or '-'}\t{_state(p)}\t" for p in plugins)
        print_table(("TYPE\tID\tPLATFORMS\tSTATUS\t", *rows), WIDE)


def _state(plugin: Mapping[str, Any]) -> str:
    error = plugin["init_err"]
    return "ok" if not error else "skip" if _SKIPPED in error["message"] else "error"


def _platforms(plugin: Mapping[str, Any]) -> str:
    texts = {
        "/".join(part for part in (platform["os"], platform["architecture"], platform["variant"]) if part)
        for platform in plugin["platforms"]
    }
    return ",".join(sorted(texts))


def _details(plugin: Mapping[str, Any]) -> list[str]:
    lines = [f"Type:\t {plugin['type']}", f"ID:\t {plugin['id']}"]
    if plugin["requires"]:
        lines += ["Requires:\t", *(f"\t {each}" for each in plugin["requires"])]
    if plugin["platforms"]:
        lines.append(f"Platforms:\t {_platforms(plugin)}")
    if plugin["exports"]:
        lines += ["Exports:\t", *(f"\t {key} \t {value}" for key, value in sorted(plugin["exports"].items()))]
    if plugin["capabilities"]:
        lines.append(f"Capabilities:\t {','.join(plugin['capabilities'])}")
    if error := plugin["init_err"]:
        code = error["code"]
        name = _CODES[code] if 0 <= code < len(_CODES) else f"Code({code})"
        message = error["message"].split("\n")
        lines += ["Error:\t", f"\t Code:\t {name}", f"\t Message:\t {message[0]}", *message[1:]]
    return lines


@command("", *RUNTIME_OPTIONS)
async def inspect_runtime(session: Session, values: Values, words: Sequence[str]) -> None:
    """As JSON: name, version, features, what its options say."""
    from portside.cli.ctr.runtime_info import runtime_info
    from portside.cli.ctr.text import json_text

    found = await runtime_info(session, values["runtime"], runtime_options(values))
    print(json_text(found))
