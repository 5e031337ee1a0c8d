"""The pairs of layers and snapshots, which containerd's own service leaves open: unpack a layer, read one back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from portside.client.fetch import ref_of
from portside.client.leasing import leased
from portside.client.remove import quietly
from portside.client.views import seen
from portside.core.labels import SNAPSHOT_REF
from portside.core.services import Services
from portside.core.snapshots import Snapshotter
from portside.core.transfer import ReadStream, Snapshot, WriteStream
from portside.engine.transfer.progress import Teller
from portside.errors import AlreadyExists, NotFound
from portside.layers.compression import GZIP, MAGIC_SIZE, PLAIN, detect
from portside.oci.descriptor import LAYER, LAYER_GZIP, LAYER_ZSTD, Descriptor
from portside.oci.digest import Digest, chain_id

if TYPE_CHECKING:
    pass

_CHUNK = 1 << 20


async def unpack_layer(services: Services, source: ReadStream, destination: Snapshot, tell: Teller) -> None:
    """Take a layer into the content store, apply it on the parent, commit.

    NotFound for the parent; AlreadyExists if there is a snapshot of the name that ``destination`` gives; one of the
    same chain ID, where it gives none, is what was asked for.
    """
    if destination.parent and not destination.key:
        Digest.parse(destination.parent)  # the chain ID is to be made of it
    async with leased(services) as held:
        store = held.snapshotter(destination.snapshotter)
        if destination.parent:
            await store.stat(destination.parent)
        tell.say("Unpacking")
        layer = await _ingest(held, source)
        tell.say("extracting", ref_of(layer), layer, total=layer.size)
        labels = {SNAPSHOT_REF: destination.key, **destination.labels} if destination.key else destination.labels
        key = f"extract-{os.urandom(8).hex()} transfer"
        mounts = await store.prepare(key, destination.parent, labels)
        try:
            applied = await held.diff.apply(layer, mounts, sync_fs=True)
            name = destination.key or _chain(destination.parent, applied.digest)
            await _commit(store, name, key, destination)
        except BaseException:
            await quietly(store.remove(key))
            raise
        tell.say("extracted", ref_of(layer), layer, progress=layer.size, total=layer.size)
    tell.say("saved", name, applied)
    tell.say("Completed unpack")


async def read_layer(services: Services, source: Snapshot, destination: WriteStream, tell: Teller) -> None:
    """Write what a snapshot changes over its parent (or another one) as a layer. NotFound."""
    async with leased(services) as held:
        store = held.snapshotter(source.snapshotter)
        info = await store.stat(source.key)
        parent = source.parent or info.parent
        tell.say("Comparing")
        async with seen(store, parent) as lower, seen(store, source.key) as upper:
            layer = await held.diff.compare(lower, upper, media_type=destination.media_type)
        reader = await held.content.open(layer.digest)
        try:
            offset = 0
            while data := await reader.read(offset, _CHUNK):
                await destination.write(data)
                offset += len(data)
                tell.say("saving", ref_of(layer), layer, progress=offset, total=layer.size)
        finally:
            await reader.close()
    tell.say("saved", ref_of(layer), layer, progress=layer.size, total=layer.size)
    tell.say("Completed diff")


async def _commit(store: Snapshotter, name: str, key: str, destination: Snapshot) -> None:
    labels = {SNAPSHOT_REF: name, **destination.labels}
    try:
        await store.commit(name, key, labels)
    except AlreadyExists:
        if destination.key:
            raise
        await store.remove(key)


def _chain(parent: str, diff_id: Digest) -> Digest:
    """The chain ID on top of ``parent``, which is one itself or empty."""
    return chain_id([Digest.parse(parent), diff_id]) if parent else diff_id


async def _ingest(services: Services, source: ReadStream) -> Descriptor:
    """The layer as a blob; what is there already counts as well."""
    ref = f"transfer-layer-{os.urandom(8).hex()}"
    writer = await services.content.writer(ref)
    size, head = 0, b""
    try:
        async for chunk in source.chunks:
            head = (head + chunk[:MAGIC_SIZE])[:MAGIC_SIZE]
            await writer.write(chunk)
            size += len(chunk)
        digest = await writer.digest()
        try:
            await writer.commit(size, digest)
        except AlreadyExists:
            pass
    except BaseException:
        await writer.close()
        try:
            await services.content.abort(ref)
        except NotFound:
            pass
        raise
    await writer.close()
    kind = detect(head)
    found = LAYER if kind == PLAIN else LAYER_GZIP if kind == GZIP else LAYER_ZSTD
    return Descriptor(source.media_type or found, digest, size)
