"""``ctr content`` on the store itself; what speaks to registries is in ``content_remote.py``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, command, complain, each, pairs
from portside.cli.ctr.grammar import Flag, Values, integer, seconds
from portside.cli.ctr.text import TABBED, age, decimal_size, label_text, print_table
from portside.cli.options import Option
from portside.cli.times import rfc3339
from portside.core.content import ContentInfo, ContentStore, ContentWriter, read_blob
from portside.core.labels import GC_EXPIRE, GC_REF_CONTENT
from portside.core.work import in_thread
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from portside.oci.digest import Digest

CHUNK = 1 << 20


@command("[FILTER...]", QUIET)
async def list_content(session: Session, values: Values, words: Sequence[str]) -> None:
    """With size, age and labels."""
    if values["quiet"]:
        async for info in session.services.content.list(list(words)):
            print(info.digest)
        return
    rows = [
        f"{info.digest}\t{decimal_size(info.size)}\t{age(info.created_ns)}\t{label_text(info.labels)}"
        async for info in session.services.content.list(list(words))
    ]
    print_table(("DIGEST\tSIZE\tAGE\tLABELS", *rows), TABBED)


@command("DIGEST")
async def get(session: Session, values: Values, words: Sequence[str]) -> None:
    """As it is."""
    await write_out(session.services.content, Digest.parse(words[0]))


async def write_out(store: ContentStore, digest: Digest) -> None:
    """A blob to standard output."""
    reader = await store.open(digest)
    try:
        offset = 0
        while data := await reader.read(offset, CHUNK):
            sys.stdout.buffer.write(data)
            offset += len(data)
    finally:
        await reader.close()


@command(
    "REF",
    integer("--expected-size", "refuse another size"),
    Flag("--expected-digest", value="DIGEST", help="refuse another digest"),
)
async def ingest(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints nothing; what is here already is fine."""
    size = values["expected_size"]
    expected = Digest.parse(values["expected_digest"]) if values["expected_digest"] else None
    try:
        writer = await session.services.content.writer(words[0], size, expected)
    except AlreadyExists:
        return
    try:
        await writer.truncate(0)
        while data := sys.stdin.buffer.read(CHUNK):
            await writer.write(data)
        await _commit(writer, size, expected)
    finally:
        await writer.close()


async def _commit(writer: ContentWriter, size: int, expected: Digest | None) -> None:
    try:
        await writer.commit(size, expected)
    except AlreadyExists:
        return


@command(
    "[REGEXP]",
    Flag(
        "--timeout", "-t", value="DURATION", default=0.0, convert=seconds, env="CONTAINERD_FETCH_TIMEOUT",
        help="for the whole; 0 is none",
    ),
    Flag("--root", value="PATH", default="/tmp/content", help="without effect, as in ctr"),
)  # fmt: skip
async def active(session: Session, values: Values, words: Sequence[str]) -> None:
    """Where each stands."""
    statuses = await session.services.content.list_statuses(list(words))
    rows = (f"{s.ref}\t{decimal_size(s.offset)}\t{age(s.started_ns)}\t" for s in statuses)
    print_table(("REF\tSIZE\tAGE\t", *rows), TABBED)


@command("DIGEST [LABEL...]")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    digest = Digest.parse(words[0])
    store = session.services.content
    if changes:
        found = await store.update(ContentInfo(digest, 0, changes), [f"labels.{key}" for key in changes])
    else:
        found = await store.info(digest)
    print(label_text(found.labels, ""))


@command("[DIGEST...]")
async def delete(session: Session, values: Values, words: Sequence[str]) -> int:
    """One by one; those that are not here are passed over."""

    async def one(digest: str) -> None:
        try:
            await session.services.content.delete(Digest.parse(digest))
        except NotFound:
            return
        print(digest)

    return await each(words, one)


@command(
    "DIGEST",
    Flag("--validate", value="FORMAT", help="refused: not supported by ctr either"),
    Flag("--editor", value="COMMAND", env="EDITOR", help="which editor"),
)
async def edit(session: Session, values: Values, words: Sequence[str]) -> None:
    """A blob goes through an editor and is stored as another; prints its digest. AlreadyExists if it is the same."""
    if values["validate"]:
        raise InvalidArgument("content edit: validating the result is not supported")
    if not values["editor"]:
        raise InvalidArgument("content edit: no editor; use --editor or the variable EDITOR")
    store = session.services.content
    digest = Digest.parse(words[0])
    with tempfile.TemporaryDirectory(prefix="edit-", dir=os.environ.get("XDG_RUNTIME_DIR")) as directory:
        path = os.path.join(directory, "blob")
        data = await read_blob(store, digest)
        edited = await in_thread(_edited, values["editor"], path, data)
    writer = await store.writer(f"edit-{digest}")
    try:
        await writer.truncate(0)
        await writer.write(edited)
        await writer.commit(len(edited), Digest.of(edited))
    finally:
        await writer.close()
    print(Digest.of(edited))


def _edited(editor: str, path: str, data: bytes) -> bytes:
    """What the editor makes of ``data``; it may write the file anew."""
    with open(path, "wb") as file:
        file.write(data)
    if subprocess.run(["sh", "-c", f'{editor} "$0"', path]).returncode:
        raise FailedPrecondition(f"content edit: the editor {editor!r} has failed")
    with open(path, "rb") as file:
        return file.read()


_LAYER = GC_REF_CONTENT + ".l."


@command(
    "",
    Option("--async", help="do not wait until what nothing keeps is gone"),
    Option("--dry", help="only tell what would be dropped"),
)
async def prune_references(session: Session, values: Values, words: Sequence[str]) -> None:
    """Drop the labels by which manifests keep their layers, and collect what nothing else keeps."""
    services = session.services
    if values["dry"]:
        async for info in services.content.list():
            for key in filter(_keeps_layer, info.labels):
                complain(f"would remove label {key} of {info.digest}")
    else:
        digests = [info.digest async for info in services.content.list()]
        await drop_references(services.content, digests)
    expire = {GC_EXPIRE: rfc3339(time.time_ns() + 3600 * 10**9)}
    lease = await services.leases.create(f"{time.time_ns()}-{os.urandom(2).hex()}", expire)
    await services.leases.delete(lease.id, sync=not values["async"])


async def drop_references(store: ContentStore, digests: Sequence[Digest]) -> None:
    """Take the labels that keep layers off these blobs."""
    for digest in digests:
        dropped = list(filter(_keeps_layer, (await store.info(digest)).labels))
        if dropped:
            await store.update(ContentInfo(digest, 0, {}), [f"labels.{key}" for key in dropped])


def _keeps_layer(key: str) -> bool:
    """Layers only: ``….l.0``, or by the older form any number but that of the configuration."""
    number = key.removeprefix(GC_REF_CONTENT + ".")
    return key.startswith(_LAYER) or (number != key and number.isdigit() and number != "0")
