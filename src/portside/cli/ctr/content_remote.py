"""``ctr content`` with a registry on the other side: whole images without unpacking, single documents and blobs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

from portside.cli.ctr.command import LABELS, Session, command, offline, set_pairs
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.registry_options import METADATA, PLATFORMS, REGISTRY_OPTIONS, platforms_of, registry_of, tell
from portside.cli.options import Option
from portside.client.leasing import leased
from portside.client.metadata import fetch_metadata
from portside.client.pull import PullOptions, pull
from portside.client.store_image import store_image
from portside.errors import AlreadyExists, DataLoss
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference


@command(
    "REF [OBJECT]", *REGISTRY_OPTIONS, LABELS, *PLATFORMS,
    *METADATA,
    Option("--metadata-only", help="documents of all platforms, and no layers"),
)  # fmt: skip
async def fetch(session: Session, values: Values, words: Sequence[str]) -> None:
    """As ``images pull`` without unpacking."""
    reference, labels = Reference.parse(words[0]), set_pairs(values["label"])
    options = PullOptions(
        platforms=platforms_of(values), all_platforms=values["all_platforms"], labels=labels, unpack=False,
        name=words[0],
    )  # fmt: skip
    async with registry_of(values) as registry, leased(session.services) as services:
        if values["metadata_only"]:
            target = await registry.resolve(reference)
            await fetch_metadata(services, registry, reference, target, progress=tell)
            await store_image(services, words[0], target, labels)
            return
        image = await pull(services, registry, reference, options, progress=tell)
        if not values["skip_metadata"]:
            await fetch_metadata(services, registry, reference, image.target, progress=tell)


@offline("REF [HINT...]", *REGISTRY_OPTIONS)
async def fetch_object(session: Session, values: Values, words: Sequence[str]) -> None:
    """Asks no server of ours."""
    reference = Reference.parse(words[0])
    async with registry_of(values) as registry:
        found = await registry.resolve(reference)
        sys.stdout.buffer.write(await registry.fetch_document(reference, found))


@offline("REF DIGEST...", *REGISTRY_OPTIONS, Flag("--media-type", value="TYPE", help="what to ask for"))
async def fetch_blob(session: Session, values: Values, words: Sequence[str]) -> None:
    """One after the other; DataLoss if what comes is not what its digest says."""
    reference = Reference.parse(words[0])
    async with registry_of(values) as registry:
        for text in words[1:]:
            digest = Digest.parse(text)
            hasher = hashlib.new(digest.algorithm)
            blob = Descriptor(values["media_type"] or "*/*", digest, await registry.size_of(reference, digest))
            async for chunk in registry.fetch(reference, blob):
                hasher.update(chunk)
                sys.stdout.buffer.write(chunk)
            if hasher.hexdigest() != digest.hex:
                raise DataLoss(f"{reference}: what came is not {digest}")


@command("REF DIGEST TYPE", *REGISTRY_OPTIONS)
async def push_object(session: Session, values: Values, words: Sequence[str]) -> None:
    """As a blob, or by its type as a manifest; AlreadyExists if it is there, as in ctr."""
    store = session.services.content
    digest = Digest.parse(words[1])
    reader = await store.open(digest)
    try:
        blob = Descriptor(words[2], digest, reader.size)
        async with registry_of(values) as registry:
            if await registry.push(Reference.parse(words[0]), blob, reader) == "exists":
                raise AlreadyExists(f"{words[0]}: {digest} is there already")
    finally:
        await reader.close()
    print(f"Pushed {digest} {words[2]}")
