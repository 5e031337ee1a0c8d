"""``ctr namespaces``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, Values, command, label_text, pairs
from portside.cli.table import print_table


@command("list", "", "list namespaces", QUIET, aliases=("ls",))
async def list_namespaces(session: Session, values: Values, words: Sequence[str]) -> None:
    """With their labels."""
    names = await session.backend.namespaces.list()
    if values["quiet"]:
        for name in names:
            print(name)
        return
    labels = [await session.backend.namespaces.labels(name) for name in names]
    rows = [(name, label_text(found) if found else "") for name, found in zip(names, labels, strict=True)]
    print_table(("NAME", "LABELS"), rows)


@command("create", "NAME [LABEL...]", "create a namespace", aliases=("c",))
async def create(session: Session, values: Values, words: Sequence[str]) -> None:
    """With labels ``key=value``."""
    await session.backend.namespaces.create(words[0], pairs(words[1:]))


@command("label", "NAME LABEL...", "set or, with an empty value, clear labels")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one."""
    for key, value in pairs(words[1:]).items():
        await session.backend.namespaces.set_label(words[0], key, value)


@command("remove", "NAME...", "remove empty namespaces", aliases=("rm",))
async def remove(session: Session, values: Values, words: Sequence[str]) -> None:
    """Those that still have something are refused."""
    for name in words:
        await session.backend.namespaces.delete(name)
        print(name)


COMMANDS = (list_namespaces, create, label, remove)
