"""Layers become snapshots: each under its chain ID, on top of the one below, checked against the configuration.

Works while layers still arrive: a layer is applied as soon as it and the snapshot below it are there.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence

from portside.client.closure import add_labels
from portside.client.fetch import ref_of
from portside.client.flights import Flights
from portside.client.leasing import hold
from portside.client.progress import EXTRACTED, EXTRACTING, Progress, ProgressCallback, ignore
from portside.core.labels import GC_REF_SNAPSHOT, SNAPSHOT_REF, UNCOMPRESSED
from portside.core.mount import Mount
from portside.core.services import Services
from portside.core.snapshots import Snapshotter
from portside.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, PortsideError
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest, chain_id
from portside.oci.image import ImageConfig, Manifest

Arrival = Callable[[Descriptor], Awaitable[object]]
"""Returns when the blob is in the content store."""


async def unpack(
    services: Services, manifest: Manifest, config: ImageConfig, snapshotter: str = "", *,
    arrival: Arrival | None = None, progress: ProgressCallback = ignore, flights: Flights | None = None,
) -> Digest:  # fmt: skip
    """Make the snapshots of all layers; the chain ID of the last, which containers use as parent.

    DataLoss if a layer is not what the configuration says. What was made stays held by the lease of ``services``
    and, from the end on, by the configuration's label.
    """
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidArgument(
            f"image config {manifest.config.digest}: {len(config.diff_ids)} diff ids for {len(manifest.layers)} layers"
        )
    if not manifest.layers:
        raise InvalidArgument(f"image config {manifest.config.digest}: no layers, nothing to run")
    name = snapshotter or services.default_snapshotter
    store = services.snapshotter(name)
    locks = flights or Flights()
    chain = Digest("")
    for number, layer in enumerate(manifest.layers):
        parent, chain = chain, chain_id(list(config.diff_ids[: number + 1]))
        if await _exists(store, chain):
            continue
        if arrival is not None:
            await arrival(layer)
        async with locks.one(f"{services.namespace} {name} {chain}"):
            if not await _exists(store, chain):
                progress(Progress(ref_of(layer), EXTRACTING, 0, layer.size))
                await _apply(services, store, layer, config.diff_ids[number], parent, chain)
        progress(Progress(ref_of(layer), EXTRACTED, layer.size, layer.size))
    await hold(services, f"snapshots/{name}", chain)
    await add_labels(services, manifest.config.digest, {f"{GC_REF_SNAPSHOT}{name}": chain})
    return chain


async def is_unpacked(services: Services, diff_ids: Sequence[Digest], snapshotter: str = "") -> bool:
    """Whether the snapshot that a container would stand on is there."""
    name = snapshotter or services.default_snapshotter
    return bool(diff_ids) and await _exists(services.snapshotter(name), chain_id(list(diff_ids)))


async def _exists(store: Snapshotter, key: str) -> bool:
    try:
        await store.stat(key)
    except NotFound:
        return False
    return True


async def _apply(
    services: Services, store: Snapshotter, layer: Descriptor, diff_id: Digest, parent: str, chain: Digest
) -> None:
    labels = {SNAPSHOT_REF: str(chain)}
    key = f"extract-{os.urandom(8).hex()} {chain}"
    try:
        mounts = await store.prepare(key, parent, labels)
    except AlreadyExists:
        # A remote snapshotter knows the chain without our unpacking it.
        await store.stat(chain)
        return
    try:
        applied = await _unpacked(services, layer, mounts)
        if applied.digest != diff_id:
            raise DataLoss(f"layer {layer.digest}: unpacks to {applied.digest}, the image says {diff_id}")
        await store.commit(chain, key, labels)
    except AlreadyExists:
        await _remove(store, key)
    except BaseException:
        await _remove(store, key)
        raise
    await add_labels(services, layer.digest, {UNCOMPRESSED: str(diff_id)})


async def _unpacked(services: Services, layer: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
    try:
        return await services.diff.apply(layer, mounts, sync_fs=True)
    except PortsideError as error:
        if layer.digest in str(error):
            raise
        raise type(error)(f"unpack layer {layer.digest}: {error}") from error


async def _remove(store: Snapshotter, key: str) -> None:
    try:
        await store.remove(key)
    except PortsideError:
        # The lease holds the only reference: with it goes the leftover.
        return
