"""What an image consists of for one platform, as ``ctr`` counts it, and the platforms that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portside.client.closure import MAX_DEPTH, by_platform, config_of, read_document
from portside.core.content import read_blob
from portside.core.services import Services
from portside.errors import InvalidArgument, NotFound
from portside.oci.descriptor import CONFIG, DOCKER_CONFIG, INDEXES, MANIFESTS, Descriptor
from portside.oci.image import Index, Manifest, parse_config
from portside.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Contents:
    """``documents`` from the target down to the manifest; its configuration and layers are ``blobs``."""

    documents: Sequence[Descriptor]
    blobs: Sequence[Descriptor]

    @property
    def size(self) -> int:
        """Bytes of all, here or not."""
        return sum(blob.size for blob in (*self.documents, *self.blobs))


async def contents(services: Services, target: Descriptor, wanted: Platform) -> Contents:
    """NotFound if a document on the way is not here, or nothing is for ``wanted``."""
    documents = [target]
    for _ in range(MAX_DEPTH):
        if documents[-1].media_type not in INDEXES | MANIFESTS:
            return Contents(documents, ())
        document = await read_document(services, documents[-1])
        if isinstance(document, Manifest):
            return Contents(documents, document.children())
        best = next(iter(by_platform(document, wanted)), None)
        if best is None:
            break
        documents.append(best)
    raise NotFound(f"image {target.digest}: nothing in it for {wanted}")


async def platforms(services: Services, target: Descriptor, depth: int = MAX_DEPTH) -> set[str]:
    """Names of the platforms; those of an index as its entries say, else as the configuration does."""
    if target.platform is not None:
        unknown = "unknown" in (target.platform.os, target.platform.architecture)
        return set() if unknown else {str(target.platform)}
    if target.media_type not in INDEXES | MANIFESTS or not depth:
        return set()
    document = await read_document(services, target)
    if isinstance(document, Index):
        found: set[str] = set()
        for child in document.manifests:
            found |= await platforms(services, child, depth - 1)
        return found
    if document.config.media_type not in (CONFIG, DOCKER_CONFIG):
        return set()
    return {str(parse_config(await read_blob(services.content, document.config.digest)).platform)}


async def diff_ids(services: Services, target: Descriptor, wanted: Platform) -> Sequence[str]:
    """The layers of the image for ``wanted``, uncompressed; NotFound, InvalidArgument if it is none that runs."""
    found = await contents(services, target, wanted)
    document = await read_document(services, found.documents[-1])
    if not isinstance(document, Manifest):
        raise InvalidArgument(f"image {target.digest}: no manifest in it")
    return (await config_of(services, document)).diff_ids
