"""``ctr content``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, Values, command, label_text, pairs, size_text
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.core.content import ContentInfo
from portside.oci.digest import Digest

_CHUNK = 1 << 20


@command("list", "[FILTER...]", "list blobs", QUIET, aliases=("ls",))
async def list_content(session: Session, values: Values, words: Sequence[str]) -> None:
    """With size, age and labels."""
    infos = [info async for info in session.services.content.list(list(words))]
    if values["quiet"]:
        for info in infos:
            print(info.digest)
        return
    rows = [(info.digest, size_text(info.size), label_text(info.labels)) for info in infos]
    print_table(("DIGEST", "SIZE", "LABELS"), rows)


@command("get", "DIGEST", "write a blob to standard output")
async def get(session: Session, values: Values, words: Sequence[str]) -> None:
    """As it is."""
    reader = await session.services.content.open(Digest.parse(words[0]))
    try:
        offset = 0
        while data := await reader.read(offset, _CHUNK):
            sys.stdout.buffer.write(data)
            offset += len(data)
    finally:
        await reader.close()


_SIZE = Option("--expected-size", value="BYTES", help="refuse another size", default="0")
_DIGEST = Option("--expected-digest", value="DIGEST", help="refuse another digest")


@command("ingest", "REF", "write standard input as a blob", _SIZE, _DIGEST)
async def ingest(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints nothing, as ctr does."""
    expected = Digest.parse(values["expected_digest"]) if values["expected_digest"] else None
    writer = await session.services.content.writer(words[0], int(values["expected_size"]), expected)
    try:
        await writer.truncate(0)
        while data := sys.stdin.buffer.read(_CHUNK):
            await writer.write(data)
        await writer.commit(int(values["expected_size"]), expected)
    finally:
        await writer.close()


@command("active", "", "show ingests in progress")
async def active(session: Session, values: Values, words: Sequence[str]) -> None:
    """Where each stands."""
    statuses = await session.services.content.list_statuses()
    print_table(("REF", "SIZE", "TOTAL"), [(s.ref, size_text(s.offset), size_text(s.total)) for s in statuses])


@command("label", "DIGEST LABEL...", "set or, with an empty value, clear labels")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    info = ContentInfo(Digest.parse(words[0]), 0, changes)
    updated = await session.services.content.update(info, [f"labels.{key}" for key in changes])
    print(label_text(updated.labels))


@command("delete", "DIGEST...", "delete blobs", aliases=("del", "remove", "rm"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one."""
    for digest in words:
        await session.services.content.delete(Digest.parse(digest))
        print(digest)


COMMANDS = (list_content, get, ingest, active, label, delete)
