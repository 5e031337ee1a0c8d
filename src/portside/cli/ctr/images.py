"""``ctr images``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from portside.cli.ctr.command import QUIET, SNAPSHOTTER, Session, Values, command, label_text, pairs, size_text
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.client.closure import walk
from portside.client.images import list_images
from portside.client.progress import Progress
from portside.client.pull import PullOptions, pull
from portside.client.push import push
from portside.client.store_image import store_image
from portside.core.images import Image
from portside.errors import NotFound
from portside.oci.platform import Platform
from portside.oci.reference import Reference
from portside.registry.client import Registry
from portside.registry.credentials import DockerCredentials
from portside.registry.endpoints import RegistryConfig

_REGISTRY = (
    Option("--plain-http", help="without TLS"),
    Option("-k", "--skip-verify", help="do not check certificates"),
    Option("-u", "--user", value="USER[:PASSWORD]", help="credentials"),
    Option("--hosts-dir", value="DIR", help="directories with hosts.toml"),
    Option("--platform", value="OS/ARCH", help="which platform"),
)


@asynccontextmanager
async def _registry(values: Values) -> AsyncIterator[Registry]:
    user, _, secret = values["user"].partition(":")
    credentials = (lambda host: (user, secret)) if user else DockerCredentials()
    registry = Registry(
        RegistryConfig(
            plain_http=True if values["plain_http"] else None, skip_verify=values["skip_verify"],
            credentials=credentials, hosts_dir=values["hosts_dir"] or None,
        )
    )  # fmt: skip
    try:
        yield registry
    finally:
        await registry.close()


def _tell(progress: Progress) -> None:
    if progress.offset == progress.total:
        print(f"{progress.object}: {progress.stage}", file=sys.stderr)


def _platform(values: Values) -> Platform | None:
    return Platform.parse(values["platform"]) if values["platform"] else None


@command("list", "[FILTER...]", "list images", QUIET, aliases=("ls",))
async def list_all(session: Session, values: Values, words: Sequence[str]) -> None:
    """With target, size and labels."""
    rows = await list_images(session.services, list(words))
    if values["quiet"]:
        for row in rows:
            print(row.name)
        return
    cells = [(row.name, row.media_type, row.digest, size_text(row.size), label_text(row.labels)) for row in rows]
    print_table(("REF", "TYPE", "DIGEST", "SIZE", "LABELS"), cells)


@command("pull", "REF", "fetch an image", *_REGISTRY, SNAPSHOTTER)
async def pull_image(session: Session, values: Values, words: Sequence[str]) -> None:
    """Fetch and unpack; progress goes to standard error."""
    platform = _platform(values)
    options = PullOptions(platforms=(platform,) if platform else (), snapshotter=values["snapshotter"])
    async with _registry(values) as registry:
        image = await pull(session.services, registry, Reference.parse(words[0]), options, progress=_tell)
    print(f"{image.name}: {image.target.digest}")


@command("push", "REMOTE [LOCAL]", "send an image", *_REGISTRY)
async def push_image(session: Session, values: Values, words: Sequence[str]) -> None:
    """The image of the same name, or another one."""
    image = await session.services.images.get(words[-1])
    async with _registry(values) as registry:
        sent = await push(
            session.services, registry, image, Reference.parse(words[0]), platform=_platform(values), progress=_tell
        )
    print(f"{words[0]}: {sent.digest}")


_FORCE = Option("--force", help="replace the name if it is taken")


@command("tag", "SOURCE TARGET...", "give an image more names", _FORCE)
async def tag(session: Session, values: Values, words: Sequence[str]) -> None:
    """AlreadyExists without --force."""
    image = await session.services.images.get(words[0])
    for name in words[1:]:
        if values["force"]:
            await store_image(session.services, name, image.target, image.labels)
        else:
            await session.services.images.create(Image(name, image.target, image.labels))
        print(name)


@command("label", "REF LABEL...", "set or, with an empty value, clear labels")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    image = await session.services.images.get(words[0])
    changed = Image(image.name, image.target, changes)
    updated = await session.services.images.update(changed, [f"labels.{key}" for key in changes])
    print(label_text(updated.labels))


_SYNC = Option("--sync", help="return when what it kept alone is gone")


@command("delete", "REF...", "delete images", _SYNC, aliases=("del", "remove", "rm"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """One by one; the last one with ``--sync``."""
    for index, name in enumerate(words):
        await session.services.images.delete(name, bool(values["sync"]) and index == len(words) - 1)
        print(name)


@command("check", "[FILTER...]", "check that the content of images is all here", QUIET)
async def check(session: Session, values: Values, words: Sequence[str]) -> int:
    """1 if something is missing."""
    status = 0
    rows = []
    for image in await session.services.images.list(list(words)):
        have = missing = 0
        async for blob in walk(session.services, image.target):
            try:
                await session.services.content.info(blob.digest)
                have += 1
            except NotFound:
                missing += 1
        status = 1 if missing else status
        state = "incomplete" if missing else "complete"
        rows.append((image.name, image.target.digest, f"{state} ({have}/{have + missing})"))
    if values["quiet"]:
        for row in rows:
            if row[2].startswith("complete"):
                print(row[0])
    else:
        print_table(("REF", "DIGEST", "STATUS"), rows)
    return status


COMMANDS = (list_all, pull_image, push_image, tag, label, delete, check)
