"""``ctr snapshots`` to layers and back: ``diff`` and ``unpack``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import LABELS, Session, command, set_pairs
from portside.cli.ctr.content import write_out
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.snapshots import kept
from portside.cli.options import Option
from portside.client.closure import config_of, manifest_of
from portside.client.leasing import leased
from portside.client.unpack import unpack as unpack_image
from portside.client.views import seen
from portside.errors import NotFound
from portside.oci.descriptor import LAYER_GZIP
from portside.oci.digest import Digest


@command(
    "KEY [KEY]",
    Flag("--media-type", value="TYPE", default=LAYER_GZIP, help="what the layer is to be"),
    Flag("--ref", value="REF", help="the ingest's name"),
    Option("--keep", help="keep the layer in the store until it is removed by hand"),
    LABELS,
    asks_snapshotters=True,
)
async def diff(session: Session, values: Values, words: Sequence[str]) -> None:
    """What the first one changes over its parent, or what the second one changes over the first."""
    labels = set_pairs(values["label"]) | (kept() if values["keep"] else {})
    snapshotter = values["snapshotter"]
    async with leased(session.services) as services:
        store = services.snapshotter(snapshotter)
        lower, upper = words if len(words) > 1 else ((await store.stat(words[0])).parent, words[0])
        async with seen(store, lower) as left, seen(store, upper) as right:
            layer = await services.diff.compare(
                left, right, media_type=values["media_type"], ref=values["ref"], labels=labels
            )
        await write_out(services.content, layer.digest)


@command("DIGEST", Option("--sync-fs", help="layers are on disk before they are used; always so"),
         asks_snapshotters=True)  # fmt: skip
async def unpack(session: Session, values: Values, words: Sequence[str]) -> None:
    """Of an image with this target; NotFound if there is none."""
    digest = Digest.parse(words[0])
    async with leased(session.services) as services:
        for image in await services.images.list():
            if image.target.digest == digest:
                print(f"unpacking {digest} ({image.target.media_type})...", end="", flush=True)
                _, manifest = await manifest_of(services, image.target)
                await unpack_image(services, manifest, await config_of(services, manifest), values["snapshotter"])
                print("done")
                return
    raise NotFound(f"manifest {digest}: no image has it as its target")
