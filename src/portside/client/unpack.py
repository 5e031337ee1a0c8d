"""Layers become snapshots: each under its chain ID, on top of the one below, checked against the configuration.

Works while layers still arrive: a layer is applied as soon as it and the snapshot below it are there.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from portside.client.closure import add_labels
from portside.client.fetch import ref_of
from portside.client.flights import Flights
from portside.client.hints import Hints, no_hints
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
    arrival: Arrival | None = None, hints: Hints = no_hints, progress: ProgressCallback = ignore,
    flights: Flights | None = None,
) -> Digest:  # fmt: skip
    """Make the snapshots of all layers; the chain ID of the last, which containers use as parent.

    A snapshotter that somebody else serves is asked with ``hints`` whether it has a layer before ``arrival`` is.
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
        asks_first = services.is_foreign(name)
        if arrival is not None and not asks_first:
            await arrival(layer)
        async with locks.one(f"{services.namespace} {name} {chain}"):
            if not await _exists(store, chain):
                step = _Step(layer, config.diff_ids[number], parent, chain, dict(hints(layer)), progress)
                await step.run(services, store, arrival if asks_first else None)
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


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer, and where it belongs."""

    layer: Descriptor
    diff_id: Digest
    parent: str
    chain: Digest
    hints: Mapping[str, str]
    progress: ProgressCallback

    async def run(self, services: Services, store: Snapshotter, arrival: Arrival | None) -> None:
        """Make the snapshot, unless a lazy snapshotter has it already."""
        labels = {**self.hints, SNAPSHOT_REF: str(self.chain)}
        key = f"extract-{os.urandom(8).hex()} {self.chain}"
        try:
            mounts = await store.prepare(key, self.parent, labels)
        except AlreadyExists:
            # A lazy snapshotter knows the chain without our unpacking it.
            await store.stat(self.chain)
            return
        try:
            if arrival is not None:
                await arrival(self.layer)
            self.progress(Progress(ref_of(self.layer), EXTRACTING, 0, self.layer.size))
            applied = await _unpacked(services, self.layer, mounts)
            if applied.digest != self.diff_id:
                raise DataLoss(f"layer {self.layer.digest}: unpacks to {applied.digest}, the image says {self.diff_id}")
            await store.commit(self.chain, key, labels)
        except AlreadyExists:
            await _remove(store, key)
        except BaseException:
            await _remove(store, key)
            raise
        await add_labels(services, self.layer.digest, {UNCOMPRESSED: str(self.diff_id)})


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
