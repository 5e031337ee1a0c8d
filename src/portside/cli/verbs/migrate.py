"""``portside migrate``: take over the root of a stopped containerd."""

from __future__ import annotations

from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context
    from portside.doctor.takeover import Outcome, Plan

VERB = Verb(
    "migrate",
    "",
    "Take over what a stopped containerd has: namespaces, content, images, snapshots, containers' records, leases. Its"
    " root stays as it is; containers must be stopped and are started again here.",
    (
        Option("--from", value="DIR", default="/var/lib/containerd", help="its root (/var/lib/containerd)"),
        Option("--from-state", "--state", value="DIR", default="/run/containerd", help="its state (/run/containerd)"),
        Option("--root", value="DIR", help="our root (as configured, else /var/lib/portside)"),
        Option("--copy", help="copy files instead of linking them"),
        Option("--dry-run", help="say what would be done"),
        Option("--json", help="the same as JSON"),
        Option("-q", "--quiet", help="only errors"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    import asyncio
    from pathlib import Path

    from portside.daemon.config import load
    from portside.doctor import takeover

    source, state = Path(values["from"]).absolute(), Path(values["from_state"]).absolute()
    root = Path(values["root"]).absolute() if values["root"] else load(None).root
    if values["dry_run"]:
        _show(takeover.dry_run(source, state, root), None, values, root)
        return 0

    def progress(what: str) -> None:
        if not values["quiet"] and not values["json"]:
            print(what)

    taking = takeover.take_over(source, state, root, copy=values["copy"], progress=progress)
    outcome = asyncio.run(taking)
    _show(outcome.plan, outcome, values, root)
    return 0


def _show(plan: Plan, outcome: Outcome | None, values: dict[str, Any], root: object) -> None:
    if values["json"]:
        _print_json(plan, outcome)
        return
    for line in plan.left_out:
        print(f"left out: {line}")
    for line in plan.notes:
        print(f"note: {line}")
    if values["quiet"]:
        return
    from portside.cli.table import human_size

    taken = ", ".join(f"{count} {kind}" for kind, count in sorted(plan.counts.items())) or "nothing"
    size = human_size(sum(plan.blobs.values()))
    verb = "would take" if outcome is None else "took"
    print(f"{verb} from {plan.upstream.root} (schema {plan.upstream.version}) into {root}: {taken}")
    how = f"{len(plan.blobs)} blobs of {size}"
    if outcome is not None:
        how += f": {outcome.linked} linked, {outcome.copied} copied"
    print(f"{how}; {plan.there} records were there already, {len(plan.left_out)} left out")


def _print_json(plan: Plan, outcome: Outcome | None) -> None:
    import json

    document = {
        "from": str(plan.upstream.root),
        "schema": plan.upstream.version,
        "taken": plan.counts,
        "blobs": len(plan.blobs),
        "bytes": sum(plan.blobs.values()),
        "there": plan.there,
        "leftOut": plan.left_out,
        "notes": plan.notes,
        "done": outcome is not None,
    }
    if outcome is not None:
        document |= {"linked": outcome.linked, "copied": outcome.copied, "copiedBytes": outcome.copied_bytes}
    print(json.dumps(document, indent=2))
