"""``ctr leases``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, command, pairs
from portside.cli.ctr.grammar import Flag, Values, seconds
from portside.cli.ctr.text import label_text, local_time, print_table
from portside.cli.options import Option
from portside.cli.times import rfc3339
from portside.core.labels import GC_EXPIRE

_DAY = 24 * 3600.0


@command("[FILTER...]", QUIET)
async def list_leases(session: Session, values: Values, words: Sequence[str]) -> None:
    """With creation time and labels."""
    leases = await session.services.leases.list(list(words))
    if values["quiet"]:
        for lease in leases:
            print(lease.id)
        return
    rows = (f"{lease.id}\t{local_time(lease.created_ns)}\t{label_text(lease.labels)}\t" for lease in leases)
    print_table(("ID\tCREATED AT\tLABELS\t", *rows))


@command(
    "[LABEL...]",
    Flag("--id", value="ID", help="instead of a random one"),
    Flag(
        "--expires", "-x", value="DURATION", default=_DAY, convert=seconds,
        help="when it ends by itself; 0 is never, the default a day",
    ),
)  # fmt: skip
async def create(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints its id."""
    labels = pairs(words)
    if values["expires"] > 0:
        labels[GC_EXPIRE] = rfc3339(time.time_ns() + int(values["expires"] * 1e9))
    lease = await session.services.leases.create(values["id"] or f"{time.time_ns()}-{os.urandom(2).hex()}", labels)
    print(lease.id)


@command("ID...", Option("--sync", help="return when what it held alone is gone"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one; the last one with ``--sync``."""
    for index, id in enumerate(words):
        await session.services.leases.delete(id, bool(values["sync"]) and index == len(words) - 1)
        print(id)
