"""``portside doctor``: explain, verify and repair what is on disk."""

from __future__ import annotations

import sys

from portside.cli.options import Option, Verb
from portside.cli.table import human_size, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context
    from portside.doctor.report import Report

VERB = Verb(
    "doctor",
    "",
    "Explain every byte below the root by its owner, and find what is wrong: 0 if nothing is or all was repaired, 1 if"
    " something is, 2 if it could not be looked at. Works on a stopped root, and read-only beside a daemon.",
    (
        Option("--root", value="DIR", help="the root (as configured, else /var/lib/portside)"),
        Option("--state", value="DIR", help="its state directory (as configured, with the root that is)"),
        Option("--verify", help="also read all content and compare all layers"),
        Option("--repair", help="remove orphans, fetch content again, unpack layers again, rebuild metadata"),
        Option("--all", help="every owner, not just the largest ones"),
        Option("--json", help="everything as JSON"),
    ),
)
FAILURE = 2
SHOWN = 15
"""Owners in the table without ``--all``."""


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0: all is well. 1: something is not."""
    import asyncio
    from pathlib import Path

    from portside.daemon.config import load
    from portside.doctor.examine import examine

    config = load(None)
    root = Path(values["root"]).absolute() if values["root"] else config.root
    # Another root's state directory must not be taken for this one's.
    known = config.state if root == config.root else None
    state = Path(values["state"]).absolute() if values["state"] else known
    show = _progress() if not values["json"] and sys.stderr.isatty() else None
    options = {"progress": show} if show is not None else {}
    report = asyncio.run(examine(root, state, verify=values["verify"], repair=values["repair"], **options))
    if show is not None:
        print("\r\033[K", end="", file=sys.stderr)
    if values["json"]:
        import json

        print(json.dumps(report.to_json(), indent=2))
    else:
        _print(report, values["all"])
    return 1 if report.findings or report.failed else 0


def _progress() -> Any:
    import threading
    import time

    lock = threading.Lock()
    last = 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        with lock:
            if time.monotonic() - last < 0.1 and done < total:
                return
            last = time.monotonic()
            figures = f"{human_size(done)} of {human_size(total)}" if what == "content" else f"{done} of {total}"
            print(f"\r\033[K{what}: {figures}", end="", file=sys.stderr, flush=True)

    return show


def _print(report: Report, everything: bool) -> None:
    print(f"root {report.root}: {human_size(report.bytes)}{', in use by a daemon' if report.running else ''}\n")
    uses = sorted(report.uses.items(), key=lambda item: (-item[1].bytes, item[0].kind, item[0].name))
    shown = uses if everything else uses[:SHOWN]
    rows = [(owner.kind, owner.name, human_size(use.bytes), str(use.inodes)) for owner, use in shown]
    if rest := uses[len(shown) :]:
        size, inodes = sum(use.bytes for _, use in rest), sum(use.inodes for _, use in rest)
        rows.append(("…", f"{len(rest)} more (--all)", human_size(size), str(inodes)))
    print_table(("OWNER", "NAME", "SIZE", "FILES"), rows)
    print()
    for line in report.repaired:
        print(f"repaired: {line}")
    for line in report.failed:
        print(f"not repaired: {line}")
    for finding in report.findings:
        takes = f" ({human_size(finding.bytes)})" if finding.bytes else ""
        where = f"  {finding.path}" if finding.path else ""
        print(f"{finding.kind}: {finding.name}: {finding.detail}{takes}{where}")
    for line in report.notes:
        print(f"note: {line}")
    if verified := report.verified:
        read = human_size(verified.get("bytes", 0))
        print(f"verified: {verified.get('blobs', 0)} blobs of {read}, {verified.get('layers', 0)} layers")
    print(_verdict(report))


def _verdict(report: Report) -> str:
    if not report.findings and not report.failed:
        return "nothing is wrong"
    count = len(report.findings)
    what = "thing is" if count == 1 else "things are"
    first = "stop the daemon and run" if report.running else "see"
    advice = "" if report.repaired or report.failed else f"; {first} portside doctor --repair"
    return f"{count} {what} wrong{advice}"
