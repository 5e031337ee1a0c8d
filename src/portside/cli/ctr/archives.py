"""``ctr images export`` and ``import``: from here, by our own client; the server's transfer service is not asked."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import BinaryIO, cast

from portside.cli.ctr.command import LABELS, Session, command, set_pairs
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.registries import LOCAL
from portside.cli.ctr.registry_options import PLATFORMS, platforms_of, tell
from portside.cli.ctr.tree import SNAPSHOTTER
from portside.cli.options import Option, UsageError
from portside.client.image_export import ExportOptions, export_images
from portside.client.image_import import NAME_ANNOTATION, REF_ANNOTATION, ImportOptions, import_images
from portside.core.work import in_thread
from portside.errors import from_oserror
from portside.oci.descriptor import Descriptor
from portside.oci.platform import Platform
from portside.oci.reference import Reference

CHUNK = 1 << 20


@command(
    "FILE REF...",
    Option("--skip-manifest-json", help="without docker's manifest.json"),
    Option("--skip-non-distributable", help="without layers that may not be given away"),
    *PLATFORMS,
    LOCAL,
)  # fmt: skip
async def export(session: Session, values: Values, words: Sequence[str]) -> None:
    """``-`` is standard output. What is written when it fails is removed."""
    path, *names = words
    options = ExportOptions(
        keep_index=True, platforms=platforms_of(values), all_platforms=values["all_platforms"],
        docker_manifest=not values["skip_manifest_json"], non_distributable=not values["skip_non_distributable"],
    )  # fmt: skip
    services = session.services
    images = [await services.images.get(name) for name in names]
    archive = export_images(services, images, options=options)
    if path == "-":
        async for chunk in archive:
            sys.stdout.buffer.write(chunk)
        return
    file = await in_thread(_open, path, "wb")
    try:
        async for chunk in archive:
            await in_thread(file.write, chunk)
        await in_thread(file.close)
    except BaseException:
        file.close()
        os.unlink(path)
        raise


@command(
    "FILE",
    Flag("--base-name", value="NAME", help="names begin so; others of the archive are left out"),
    Option("--digests", help="names by digest, too"),
    Option("--skip-digest-for-named", help="with --digests: only for images without another name"),
    Flag("--index-name", value="REF", help="a name for the archive's index"),
    Option("--all-platforms", help="without looking at the platform"),
    Flag("--platform", value="OS/ARCH", help="images for that platform alone"),
    Option("--no-unpack", help="without making snapshots"),
    LOCAL,
    Option("--compress-blobs", help="compress layers that are not (docker's archives)"),
    Option("--discard-unpacked-layers", help="let layers be collected once they are unpacked"),
    Option("--sync-fs", help="layers are on disk before they are used; always so"),
    SNAPSHOTTER,
    LABELS,
    asks_snapshotters=True,
)  # fmt: skip
async def import_(session: Session, values: Values, words: Sequence[str]) -> None:
    """``-`` is standard input. Prints what was unpacked."""
    if values["skip_digest_for_named"] and not values["digests"]:
        raise UsageError("--skip-digest-for-named wants --digests")
    if values["discard_unpacked_layers"] and values["no_unpack"]:
        raise UsageError("--discard-unpacked-layers and --no-unpack exclude each other")
    platform = Platform.parse(values["platform"]) if values["platform"] else None
    options = ImportOptions(
        platform=platform, snapshotter=values["snapshotter"], unpack=not values["no_unpack"],
        labels=set_pairs(values["label"]), index_name=values["index_name"],
        platforms=(platform,) if platform and not values["all_platforms"] else (),
        names=naming(values["base_name"], values["digests"], values["skip_digest_for_named"]),
        compress=values["compress_blobs"],
    )  # fmt: skip
    images = await import_images(session.services, _read(words[0]), options, progress=tell)
    if values["discard_unpacked_layers"]:
        from portside.cli.ctr.content import drop_references

        await drop_references(session.services.content, [image.target.digest for image in images])
    for image in images if not values["no_unpack"] else ():
        print(f"unpacking {image.name} ({image.target.digest})...done")


def naming(base: str, digests: bool, only_unnamed: bool) -> Callable[[Descriptor], Sequence[str]]:
    """How images of an archive are called: by their full name, or a tag after ``base`` (default: of today).

    With a ``base`` that was given, names that do not begin with it are left out.
    """
    prefix = base or time.strftime("import-%Y-%m-%d")

    def names(target: Descriptor) -> list[str]:
        text = target.annotations.get(NAME_ANNOTATION) or target.annotations.get(REF_ANNOTATION, "")
        found = ""
        if text and "/" not in text and ":" not in text:
            found = f"{prefix}:{text}"
        elif text and (not base or text == base or text.startswith((f"{base}:", f"{base}@", f"{base}/"))):
            found = _checked(text)
        named = [found] if found else []
        if digests and not (only_unnamed and text):
            named.append(f"{prefix}@{target.digest}")
        return named

    return names


def _checked(text: str) -> str:
    return str(Reference.parse_familiar(text))


async def _read(path: str) -> AsyncIterator[bytes]:
    """The archive's bytes."""
    file = sys.stdin.buffer if path == "-" else await in_thread(_open, path, "rb")
    try:
        while data := await in_thread(file.read, CHUNK):
            yield data
    finally:
        if path != "-":
            file.close()


def _open(path: str, mode: str) -> BinaryIO:
    try:
        return cast(BinaryIO, open(path, mode))
    except OSError as error:
        raise from_oserror(error, f"open {path}") from error
