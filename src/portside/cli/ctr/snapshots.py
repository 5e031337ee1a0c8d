"""``ctr snapshots``, without what reads or writes layers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from portside.cli.ctr.command import Session, command, pairs
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.text import binary_size, iso_time, label_text, print_json, print_table
from portside.cli.options import Option
from portside.cli.times import rfc3339
from portside.core.labels import GC_ROOT
from portside.core.mount import Mount
from portside.core.snapshots import Kind, SnapshotInfo, Snapshotter
from portside.errors import Unimplemented
from portside.remote.backend import RemoteServices


def chosen(session: Session, values: Values) -> Snapshotter:
    """The snapshotter that the command line names, else the server's default."""
    return session.services.snapshotter(values["snapshotter"])


@command("[FILTER...]", asks_snapshotters=True)
async def list_snapshots(session: Session, values: Values, words: Sequence[str]) -> None:
    """With parent and kind."""
    rows = [
        f"{info.name}\t{info.parent}\t{info.kind.name.capitalize()}\t"
        async for info in chosen(session, values).walk(list(words))
    ]
    print_table(("KEY\tPARENT\tKIND\t", *rows))


@command("", asks_snapshotters=True)
async def tree(session: Session, values: Values, words: Sequence[str]) -> None:
    """Children below their parents, in the order in which the server names them."""
    children: dict[str, list[str]] = {}
    async for info in chosen(session, values).walk():
        children.setdefault(info.parent, []).append(info.name)
    waiting = [(name, 0) for name in reversed(children.get("", []))]
    while waiting:
        name, depth = waiting.pop()
        print("  " * depth + ("\\_" if depth else "") + f" {name}")
        waiting += [(child, depth + 1) for child in reversed(children.get(name, []))]


@command("[KEY...]", Option("-b", help="bytes, not rounded"), asks_snapshotters=True)
async def usage(session: Session, values: Values, words: Sequence[str]) -> None:
    """Each without its parents."""
    snapshotter = chosen(session, values)
    keys = list(words) or [info.name async for info in snapshotter.walk()]
    rows = []
    for key in keys:
        used = await snapshotter.usage(key)
        rows.append(f"{key}\t{used.size if values['b'] else binary_size(used.size)}\t{used.inodes}\t")
    print_table(("KEY\tSIZE\tINODES\t", *rows))


@command("KEY", asks_snapshotters=True)
async def info(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its record."""
    found = await chosen(session, values).stat(words[0])
    document: dict[str, object] = {"Kind": found.kind.name.capitalize(), "Name": found.name}
    if found.parent:
        document["Parent"] = found.parent
    if found.labels:
        document["Labels"] = dict(sorted(found.labels.items()))
    print_json(document | {"Created": iso_time(found.created_ns), "Updated": iso_time(found.updated_ns)})


def print_mounts(mounts: Sequence[Mount], target: str) -> None:
    """As commands for a shell."""
    for mount in mounts:
        options = f" -o {','.join(mount.options)}" if mount.options else ""
        print(f"mount -t {mount.type} {mount.source} {os.path.normpath(os.path.join(target, mount.target))}{options}")


@command("TARGET KEY", Option("--temp", help="what can be mounted as it stands, if the server can make it so"),
         asks_snapshotters=True)  # fmt: skip
async def mounts(session: Session, values: Values, words: Sequence[str]) -> None:
    """As commands for a shell."""
    target, key = words
    found: Sequence[Mount] = await chosen(session, values).mounts(key)
    print_mounts(await activated(session.services, f"ctr{key}", found, temporary=values["temp"]), target)


async def activated(
    services: RemoteServices, name: str, mounts: Sequence[Mount], *, temporary: bool = False
) -> Sequence[Mount]:
    """What is left to mount here once the server has done its part; ``mounts`` if there is nothing for it to do."""
    try:
        return (await services.mounts.activate(name, mounts, temporary=temporary)).system
    except Unimplemented:  # also by servers without a mount manager, those before containerd 2.2
        return mounts


def kept() -> dict[str, str]:
    """The label that keeps what nothing refers to from being collected, until it is removed by hand."""
    return {GC_ROOT: rfc3339(time.time_ns())}


_MADE = (
    Flag("--target", "-t", value="PATH", help="print how to mount it there"),
    Option("--mounts", help="print its mounts as JSON"),
)


@command("KEY [PARENT]", *_MADE, asks_snapshotters=True)
async def prepare(session: Session, values: Values, words: Sequence[str]) -> None:
    """On a committed one, or on nothing."""
    _show(await chosen(session, values).prepare(words[0], words[1] if len(words) > 1 else "", kept()), values)


@command("KEY [PARENT]", *_MADE, asks_snapshotters=True)
async def view(session: Session, values: Values, words: Sequence[str]) -> None:
    """Of a committed one; kept from being collected, as by prepare."""
    _show(await chosen(session, values).view(words[0], words[1] if len(words) > 1 else "", kept()), values)


def _show(mounts: Sequence[Mount], values: Values) -> None:
    if values["target"]:
        print_mounts(mounts, values["target"])
    if values["mounts"]:
        print_json(
            [{"Type": m.type, "Source": m.source, "Target": m.target, "Options": list(m.options)} for m in mounts]
        )


@command("NAME KEY", asks_snapshotters=True)
async def commit(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its files are on disk then."""
    await chosen(session, values).commit(words[0], words[1], kept())


@command("KEY [LABEL...]", asks_snapshotters=True)
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    snapshotter = chosen(session, values)
    if changes:
        wanted = SnapshotInfo(words[0], "", Kind.UNKNOWN, changes)
        found = await snapshotter.update(wanted, [f"labels.{key}" for key in changes])
    else:
        found = await snapshotter.stat(words[0])
    print(label_text(found.labels, ""))


@command("KEY...", asks_snapshotters=True)
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one, up to the first that cannot be removed."""
    for key in words:
        await chosen(session, values).remove(key)
