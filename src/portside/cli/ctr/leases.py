"""``ctr leases``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, Values, command, label_text, pairs
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.cli.times import parse_duration, rfc3339
from portside.core.labels import GC_EXPIRE


@command("list", "[FILTER...]", "list leases", QUIET, aliases=("ls",))
async def list_leases(session: Session, values: Values, words: Sequence[str]) -> None:
    """With creation time and labels."""
    leases = await session.services.leases.list(list(words))
    if values["quiet"]:
        for lease in leases:
            print(lease.id)
        return
    rows = [(lease.id, rfc3339(lease.created_ns), label_text(lease.labels)) for lease in leases]
    print_table(("ID", "CREATED AT", "LABELS"), rows)


_ID = Option("--id", value="ID", help="instead of a random one")
_EXPIRES = Option("-x", "--expires", value="DURATION", help="when it ends by itself; 0 is never", default="24h")


@command("create", "[LABEL...]", "create a lease", _ID, _EXPIRES)
async def create(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints its id."""
    labels = pairs(words)
    if seconds := parse_duration(values["expires"]):
        labels[GC_EXPIRE] = rfc3339(time.time_ns() + int(seconds * 1e9))
    lease = await session.services.leases.create(values["id"] or f"{time.time_ns()}-{secrets.token_hex(2)}", labels)
    print(lease.id)


_SYNC = Option("--sync", help="return when what it held alone is gone")


@command("delete", "ID...", "delete leases", _SYNC, aliases=("del", "remove", "rm"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one; the last one with ``--sync``."""
    for index, id in enumerate(words):
        await session.services.leases.delete(id, bool(values["sync"]) and index == len(words) - 1)
        print(id)


COMMANDS = (list_leases, create, delete)
