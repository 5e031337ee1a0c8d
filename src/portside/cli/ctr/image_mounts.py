"""``ctr images mount`` and ``unmount``: an image's root file system at a directory, under a lease called like it."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Sequence

from portside.cli.ctr.command import LABELS, Session, command
from portside.cli.ctr.grammar import Flag, Values, seconds
from portside.cli.ctr.mounting import mount_all, unmount_all
from portside.cli.ctr.registry_options import REGISTRY_OPTIONS
from portside.cli.ctr.snapshots import activated
from portside.cli.ctr.tree import SNAPSHOTTER
from portside.cli.options import Option
from portside.cli.times import rfc3339
from portside.client.closure import config_of, manifest_of
from portside.client.unpack import unpack
from portside.core.labels import GC_EXPIRE
from portside.core.mount import Mount
from portside.core.snapshots import Snapshotter
from portside.errors import AlreadyExists, FailedPrecondition, NotFound, Unimplemented
from portside.oci.platform import Platform, host_platform
from portside.remote.backend import RemoteServices

_HOUR = 3600.0


@command(
    "REF [TARGET]", *REGISTRY_OPTIONS, SNAPSHOTTER, LABELS,
    Option("--rw", help="writable"),
    Flag("--platform", value="OS/ARCH", help="the image's variant for that platform"),
    Option("--sync-fs", help="layers are on disk before they are used; always so"),
    Flag(
        "--expiration", "-x", value="DURATION", default=_HOUR, convert=seconds,
        help="when what keeps it ends by itself; the default an hour",
    ),
    asks_snapshotters=True,
)  # fmt: skip
async def mount(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints the chain id and where it is mounted; without a target where it is to be seen, if that needs no mount."""
    reference, target = words[0], words[1] if len(words) > 1 else ""
    key = target or f"ctr-images-mount-{time.time_ns()}-{os.urandom(3).hex()}"
    services = session.services
    made = True
    try:
        expire = rfc3339(time.time_ns() + int(values["expiration"] * 1e9))
        await services.leases.create(key, {GC_EXPIRE: expire})
    except AlreadyExists:
        made = False
    try:
        print(await _mount(services.with_lease(key), values, reference, key, target))
    except BaseException:
        if made:
            await services.leases.delete(key)
        raise


async def _mount(services: RemoteServices, values: Values, reference: str, key: str, target: str) -> str:
    image = await services.images.get(reference)
    platform = Platform.parse(values["platform"]) if values["platform"] else host_platform()
    _, manifest = await manifest_of(services, image.target, platform)
    snapshotter = values["snapshotter"] or services.default_snapshotter
    chain = await unpack(services, manifest, await config_of(services, manifest), snapshotter)
    print(chain)
    store = services.snapshotter(snapshotter)
    found: Sequence[Mount] = await _snapshot(store, key, chain, writable=values["rw"])
    found = await activated(services, key, found, temporary=True)
    if not target:
        if len(found) != 1 or found[0].type != "bind":
            raise FailedPrecondition(f"image {image.name}: its snapshot has to be mounted; say where")
        return found[0].source
    try:
        mount_all(found, target)
    except BaseException:
        await store.remove(key)
        raise
    return target


async def _snapshot(store: Snapshotter, key: str, parent: str, *, writable: bool) -> Sequence[Mount]:
    try:
        return await (store.prepare(key, parent) if writable else store.view(key, parent))
    except AlreadyExists:
        return await store.mounts(key)


@command(
    "TARGET", *REGISTRY_OPTIONS, SNAPSHOTTER, LABELS, Option("--rm", help="remove its snapshot"),
    asks_snapshotters=True,
)  # fmt: skip
async def unmount(session: Session, values: Values, words: Sequence[str]) -> None:
    """All that is mounted there; prints the target."""
    target = words[0]
    unmount_all(target)
    services = session.services
    await _quietly(services.mounts.deactivate(target))
    if values["rm"]:
        await _quietly(services.leases.delete(target))
        await _quietly(services.snapshotter(values["snapshotter"]).remove(target))
    print(target)


async def _quietly(step: Awaitable[object]) -> None:
    """What is gone, or never was on this server, is fine."""
    try:
        await step
    except (NotFound, Unimplemented):
        return
