"""``ctr images pull`` and ``push``: from here, by our own client; the server's transfer service is not asked."""

from __future__ import annotations

import time
from collections.abc import Sequence

from portside.cli.ctr.command import LABELS, Session, command, set_pairs
from portside.cli.ctr.grammar import Flag, Values, integer
from portside.cli.ctr.image_content import diff_ids
from portside.cli.ctr.registry_options import METADATA, PLATFORMS, REGISTRY_OPTIONS, platforms_of, registry_of, tell
from portside.cli.ctr.tree import SNAPSHOTTER
from portside.cli.options import Option
from portside.client.leasing import leased
from portside.client.metadata import fetch_metadata
from portside.client.pull import MAX_DOWNLOADS, PullOptions
from portside.client.pull import pull as pull_image
from portside.client.push import MAX_UPLOADS
from portside.client.push import push as push_image
from portside.core.images import Image
from portside.errors import InvalidArgument
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest, chain_id
from portside.oci.platform import host_platform
from portside.oci.reference import Reference

LOCAL = Option("--local", help="without the server's transfer service; always so")


@command(
    "REF", *REGISTRY_OPTIONS, SNAPSHOTTER, LABELS, *PLATFORMS,
    *METADATA,
    Option("--print-chainid", help="print the chain id of the layers"),
    integer("--max-concurrent-downloads", "blobs at the same time; 0 is the default"),
    LOCAL,
    Option("--sync-fs", help="layers are on disk before they are used; always so"),
    asks_snapshotters=True,
)  # fmt: skip
async def pull(session: Session, values: Values, words: Sequence[str]) -> None:
    """Fetch and unpack; progress goes to standard error."""
    started = time.monotonic()
    platforms = platforms_of(values)
    options = PullOptions(
        platforms=platforms, all_platforms=values["all_platforms"], snapshotter=values["snapshotter"],
        labels=set_pairs(values["label"]), max_downloads=values["max_concurrent_downloads"] or MAX_DOWNLOADS,
        name=words[0],
    )  # fmt: skip
    reference = Reference.parse(words[0])
    async with registry_of(values) as registry, leased(session.services) as services:
        image = await pull_image(services, registry, reference, options, progress=tell)
        if not values["skip_metadata"]:
            await fetch_metadata(services, registry, reference, image.target, progress=tell)
    for platform in platforms or (host_platform(),):
        print(f"unpacking {platform} {image.target.digest}...")
        if values["print_chainid"]:
            layers = [Digest(each) for each in await diff_ids(session.services, image.target, platform)]
            print(f"image chain ID: {chain_id(layers)}")
    print(f"done: {time.monotonic() - started:.6g}s\t")


@command(
    "REMOTE [LOCAL]", *REGISTRY_OPTIONS,
    Flag("--manifest", value="DIGEST", help="a manifest instead of an image"),
    Flag("--manifest-type", value="TYPE", default=MANIFEST, help="its media type"),
    PLATFORMS[0],
    integer("--max-concurrent-uploaded-layers", "blobs at the same time; 0 is the default"),
    LOCAL,
    Option("--allow-non-distributable-blobs", help="layers that are had elsewhere, too, if they are here"),
)  # fmt: skip
async def push(session: Session, values: Values, words: Sequence[str]) -> None:
    """The image of the same name, or another one."""
    services = session.services
    if len(values["platform"]) > 1:
        raise InvalidArgument("images push: one --platform at most")
    platform = platforms_of(Values(PLATFORMS) | {"platform": values["platform"], "all_platforms": False})  # type: ignore[arg-type]
    if values["manifest"]:
        digest = Digest.parse(values["manifest"])
        size = (await services.content.info(digest)).size
        image = Image(words[0], Descriptor(values["manifest_type"], digest, size))
    else:
        image = await services.images.get(words[-1])
    async with registry_of(values) as registry:
        await push_image(
            services, registry, image, Reference.parse(words[0]), platform=platform[0] if platform else None,
            max_uploads=values["max_concurrent_uploaded_layers"] or MAX_UPLOADS, progress=tell,
        )  # fmt: skip
