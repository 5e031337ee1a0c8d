"""``ctr namespaces``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, command, each, pairs
from portside.cli.ctr.grammar import Values
from portside.cli.ctr.text import label_text, print_table
from portside.cli.options import Option
from portside.errors import NotFound


@command("", QUIET)
async def list_namespaces(session: Session, values: Values, words: Sequence[str]) -> None:
    """With their labels."""
    names = await session.backend.namespaces.list()
    if values["quiet"]:
        for name in names:
            print(name)
        return
    rows = [f"{name}\t{label_text(await session.backend.namespaces.labels(name), '')}\t" for name in names]
    print_table(("NAME\tLABELS\t", *rows))


@command("NAME [LABEL...]")
async def create(session: Session, values: Values, words: Sequence[str]) -> None:
    """With labels ``key=value``."""
    await session.backend.namespaces.create(words[0], pairs(words[1:]))


@command("NAME [LABEL...]")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one."""
    for key, value in pairs(words[1:]).items():
        await session.backend.namespaces.set_label(words[0], key, value)


@command("NAME...", Option("-c", "--cgroup", help="its control group, too"))
async def remove(session: Session, values: Values, words: Sequence[str]) -> int:
    """Those that still have something are refused."""

    async def one(name: str) -> None:
        try:
            await session.backend.namespaces.delete(name)
        except NotFound:
            pass  # it is as it should be
        if values["cgroup"]:
            _remove_cgroup(name)
        print(name)

    return await each(words, one)


def _remove_cgroup(name: str) -> None:
    """The group that containers of the namespace were put under, in every hierarchy; those with groups below stay."""
    import os

    from portside.core.labels import check_identifier

    check_identifier(name, "namespace")
    roots = [entry.path for entry in os.scandir("/sys/fs/cgroup") if entry.is_dir(follow_symlinks=False)]
    for root in ("/sys/fs/cgroup", *roots):
        path = os.path.join(root, name)
        if os.path.exists(os.path.join(path, "cgroup.procs")):
            os.rmdir(path)
