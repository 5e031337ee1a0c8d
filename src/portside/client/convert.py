"""Convert: another image with the same files: layers uncompressed, documents of Docker's kind as OCI's."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from portside.client.closure import MAX_DEPTH, child_labels
from portside.client.leasing import hold, leased
from portside.client.store_image import store_image
from portside.client.uncompressed import uncompressed
from portside.core.content import read_blob
from portside.core.images import Image
from portside.core.labels import UNCOMPRESSED
from portside.core.services import Services
from portside.errors import AlreadyExists, InvalidArgument, NotFound
from portside.oci.descriptor import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEX,
    INDEXES,
    LAYER,
    LAYER_GZIP,
    MANIFEST,
    Descriptor,
)
from portside.oci.digest import Digest
from portside.oci.image import Index, parse_document
from portside.oci.platform import Platform

_OCI = {
    DOCKER_INDEX: INDEX, DOCKER_MANIFEST: MANIFEST, DOCKER_CONFIG: CONFIG, DOCKER_LAYER: LAYER,
    DOCKER_LAYER_GZIP: LAYER_GZIP,
}  # fmt: skip
_PLAIN_SUFFIXES = ("+gzip", "+zstd", ".gzip", ".zstd")


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What to change. ``platforms`` empty: all that an index has; else the best for each, which must be here."""

    uncompress: bool = False
    to_oci: bool = False
    platforms: Sequence[Platform] = ()


async def convert(services: Services, image: Image, name: str, options: ConvertOptions) -> Image:
    """The converted image, called ``name``, which an older image of that name makes room for.

    NotFound if a part of ``image`` is not here or nothing is for a platform.
    """
    async with leased(services) as held:
        target = await _Conversion(held, options).document(image.target, MAX_DEPTH)
        return await store_image(held, name, replace(target, annotations={}, platform=None), image.labels)


class _Conversion:
    """One conversion at work; documents are changed as JSON, so that what we do not know of them stays."""

    def __init__(self, services: Services, options: ConvertOptions) -> None:
        self._services, self._options = services, options

    async def document(self, blob: Descriptor, depth: int) -> Descriptor:
        """A manifest or index and all below it."""
        if not depth:
            raise InvalidArgument(f"image {blob.digest}: more than {MAX_DEPTH} indexes within each other")
        data = await read_blob(self._services.content, blob.digest)
        parsed = parse_document(data, blob.media_type)
        document: dict[str, Any] = json.loads(data)
        media_type = self._media_type(blob.media_type)
        if isinstance(parsed, Index):
            parts = [await self.document(child, depth - 1) for child in self._wanted(parsed)]
            document["manifests"] = [part.to_json() for part in parts]
        else:
            config = replace(parsed.config, media_type=self._media_type(parsed.config.media_type))
            layers = [await self._layer(layer) for layer in parsed.layers]
            document |= {"config": config.to_json(), "layers": [layer.to_json() for layer in layers]}
        if "mediaType" in document or media_type != blob.media_type:
            document["mediaType"] = media_type
        if document == json.loads(data):
            return blob
        return await self._write(blob, document, media_type)

    def _wanted(self, index: Index) -> Sequence[Descriptor]:
        if not self._options.platforms:
            return [child for child in index.manifests if child.media_type in INDEXES or "manifest" in child.media_type]
        chosen: dict[str, Descriptor] = {}
        for platform in self._options.platforms:
            offered = [(platform.rank_of(child.platform), child) for child in index.manifests if child.platform]
            ranked = sorted(((rank, child) for rank, child in offered if rank is not None), key=lambda pair: pair[0])
            if not ranked:
                raise NotFound(f"image: nothing in it for {platform}")
            chosen[ranked[0][1].digest] = ranked[0][1]
        return list(chosen.values())

    def _media_type(self, media_type: str) -> str:
        return _OCI.get(media_type, media_type) if self._options.to_oci else media_type

    async def _layer(self, layer: Descriptor) -> Descriptor:
        if self._options.uncompress and layer.media_type.endswith(_PLAIN_SUFFIXES):
            layer = await self._uncompressed(layer)
        return replace(layer, media_type=self._media_type(layer.media_type))

    async def _uncompressed(self, layer: Descriptor) -> Descriptor:
        ref = f"convert-uncompress-{layer.digest}-{os.urandom(4).hex()}"
        store = self._services.content
        writer = await store.writer(ref)
        hasher, size = hashlib.sha256(), 0
        try:
            async for data in uncompressed(store, layer.digest):
                hasher.update(data)
                await writer.write(data)
                size += len(data)
            digest = Digest(f"sha256:{hasher.hexdigest()}")
            await writer.commit(size, digest, {UNCOMPRESSED: digest})
        except AlreadyExists:
            await hold(self._services, "content", digest)
        except BaseException:
            await writer.close()
            await store.abort(ref)
            raise
        finally:
            await writer.close()
        return Descriptor(layer.media_type[: -len(_PLAIN_SUFFIXES[0])], digest, size, layer.annotations)

    async def _write(self, original: Descriptor, document: dict[str, Any], media_type: str) -> Descriptor:
        """The document as a blob with the labels that keep what is below it."""
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")
        digest = Digest.of(data)
        labels = child_labels(parse_document(data, media_type))
        try:
            writer = await self._services.content.writer(f"convert-{digest}", len(data), digest)
        except AlreadyExists:
            await hold(self._services, "content", digest)
        else:
            try:
                await writer.truncate(0)
                await writer.write(data)
                await writer.commit(len(data), digest, labels)
            except AlreadyExists:
                await hold(self._services, "content", digest)
            finally:
                await writer.close()
        return replace(original, media_type=media_type, digest=digest, size=len(data))
