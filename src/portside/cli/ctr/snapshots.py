"""``ctr snapshots``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from portside.cli.ctr.command import SNAPSHOTTER, Session, Values, command, label_text, pairs, size_text
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.cli.times import rfc3339
from portside.core.labels import GC_ROOT
from portside.core.mount import Mount
from portside.core.snapshots import Kind, SnapshotInfo, Snapshotter


def _chosen(session: Session, values: Values) -> Snapshotter:
    return session.services.snapshotter(values["snapshotter"])


@command("list", "[FILTER...]", "list snapshots", SNAPSHOTTER, aliases=("ls",))
async def list_snapshots(session: Session, values: Values, words: Sequence[str]) -> None:
    """With parent and kind."""
    infos = [info async for info in _chosen(session, values).walk(list(words))]
    print_table(("KEY", "PARENT", "KIND"), [(i.name, i.parent, i.kind.name.capitalize()) for i in infos])


@command("tree", "", "show snapshots as a tree", SNAPSHOTTER)
async def tree(session: Session, values: Values, words: Sequence[str]) -> None:
    """Children below their parents."""
    children: dict[str, list[str]] = {}
    async for info in _chosen(session, values).walk():
        children.setdefault(info.parent, []).append(info.name)
    waiting = [(name, 0) for name in reversed(children.get("", []))]
    while waiting:
        name, depth = waiting.pop()
        print(" " * (2 * depth) + ("\\_ " if depth else "") + name)
        waiting += [(child, depth + 1) for child in reversed(children.get(name, []))]


_BYTES = Option("-b", help="bytes, not rounded")


@command("usage", "[KEY...]", "show what snapshots take", SNAPSHOTTER, _BYTES)
async def usage(session: Session, values: Values, words: Sequence[str]) -> None:
    """Each without its parents."""
    snapshotter = _chosen(session, values)
    keys = list(words) or [info.name async for info in snapshotter.walk()]
    rows = []
    for key in keys:
        used = await snapshotter.usage(key)
        rows.append((key, str(used.size) if values["b"] else size_text(used.size), str(used.inodes)))
    print_table(("KEY", "SIZE", "INODES"), rows)


@command("info", "KEY", "show one snapshot as JSON", SNAPSHOTTER)
async def info(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its record."""
    found = await _chosen(session, values).stat(words[0])
    document = {
        "Kind": found.kind.name.capitalize(), "Name": found.name, "Parent": found.parent,
        "Labels": dict(found.labels), "Created": rfc3339(found.created_ns), "Updated": rfc3339(found.updated_ns),
    }  # fmt: skip
    print(json.dumps(document, indent=4))


def _print_mounts(mounts: Sequence[Mount], target: str) -> None:
    for mount in mounts:
        options = f" -o {','.join(mount.options)}" if mount.options else ""
        print(f"mount -t {mount.type} {mount.source} {target}{options}")


@command("mounts", "TARGET KEY", "print how to mount a snapshot", SNAPSHOTTER, aliases=("m", "mount"))
async def mounts(session: Session, values: Values, words: Sequence[str]) -> None:
    """As commands for a shell."""
    _print_mounts(await _chosen(session, values).mounts(words[1]), words[0])


def _kept() -> dict[str, str]:
    """The label that keeps what nothing refers to from being collected, until it is removed by hand."""
    return {GC_ROOT: rfc3339(time.time_ns())}


_TARGET = Option("-t", "--target", value="PATH", help="print how to mount it there")


@command("prepare", "KEY [PARENT]", "make a writable snapshot", SNAPSHOTTER, _TARGET)
async def prepare(session: Session, values: Values, words: Sequence[str]) -> None:
    """On a committed one, or on nothing."""
    made = await _chosen(session, values).prepare(words[0], words[1] if len(words) > 1 else "", _kept())
    if values["target"]:
        _print_mounts(made, values["target"])


@command("view", "KEY [PARENT]", "make a read-only snapshot", SNAPSHOTTER, _TARGET)
async def view(session: Session, values: Values, words: Sequence[str]) -> None:
    """Of a committed one."""
    made = await _chosen(session, values).view(words[0], words[1] if len(words) > 1 else "", _kept())
    if values["target"]:
        _print_mounts(made, values["target"])


@command("commit", "NAME KEY", "make an active snapshot a committed one", SNAPSHOTTER)
async def commit(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its files are on disk then."""
    await _chosen(session, values).commit(words[0], words[1], _kept())


@command("label", "KEY LABEL...", "set or, with an empty value, clear labels", SNAPSHOTTER)
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    wanted = SnapshotInfo(words[0], "", Kind.UNKNOWN, changes)
    updated = await _chosen(session, values).update(wanted, [f"labels.{key}" for key in changes])
    print(label_text(updated.labels))


@command("delete", "KEY...", "delete snapshots", SNAPSHOTTER, aliases=("del", "remove", "rm"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one."""
    for key in words:
        await _chosen(session, values).remove(key)


COMMANDS = (list_snapshots, tree, usage, info, mounts, prepare, view, commit, label, delete)
