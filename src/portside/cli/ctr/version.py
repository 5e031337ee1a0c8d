"""``ctr version``, ``ctr info`` and ``ctr deprecations``: one or two calls, without an event loop."""

from __future__ import annotations

from portside.cli.ctr.command import Session, plain
from portside.cli.ctr.grammar import Flag
from portside.cli.options import UsageError
from portside.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.cli.ctr.grammar import Values

INTROSPECTION = "containerd.services.introspection.v1.Introspection"


@plain("")
def version(session: Session, values: Values, words: Sequence[str]) -> None:
    """Both, and the server's identity."""
    print(f"Client:\n  Version:  {__version__}\n  Revision: \n", flush=True)
    found = session.ask("containerd.services.version.v1.Version", "Version")
    print(f"Server:\n  Version:  {found['version']}\n  Revision: {found['revision']}")
    print(f"  UUID: {session.ask(INTROSPECTION, 'Server')['uuid']}")


@plain("")
def info(session: Session, values: Values, words: Sequence[str]) -> None:
    """As JSON, fields without a value left out."""
    from portside.cli.ctr.text import print_json

    print_json({"server": _server(session)})


def _server(session: Session) -> dict[str, object]:
    found = session.ask(INTROSPECTION, "Server")
    server: dict[str, object] = {key: found[key] for key in ("uuid", "pid", "pidns") if found[key]}
    warnings = [{key: value for key, value in warning.items() if value} for warning in found["deprecations"]]
    return server | ({"deprecations": warnings} if warnings else {})


@plain("", Flag("--format", value="FORMAT", help="default or json"))
def deprecations(session: Session, values: Values, words: Sequence[str]) -> None:
    """What the server has seen used."""
    from portside.cli.ctr.text import WIDE, iso_time, print_json, print_table

    if values["format"] not in ("", "default", "json"):
        raise UsageError(f"unknown output format {values['format']!r}: want default or json")
    found = []
    for warning in session.ask(INTROSPECTION, "Server")["deprecations"]:
        moment = warning["last_occurrence"] or {"seconds": 0, "nanos": 0}
        when = iso_time(moment["seconds"] * 1_000_000_000 + moment["nanos"])
        found.append({"id": warning["id"], "message": warning["message"], "lastOccurrence": when})
    if found and values["format"] == "json":
        print_json(found)
    elif found:
        lines = (f"{entry['id']}\t{entry['lastOccurrence']}\t{entry['message']}" for entry in found)
        print_table(("ID\tLAST OCCURRENCE\tMESSAGE\t", *lines), WIDE)
