"""Which layer a snapshot is: image configurations name the uncompressed layers, and so the chain of each snapshot.

Read from content alone: every small JSON document in the store is tried. Not here: layers that other tools committed
under names of their own; those belong to no image's chain.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portside.content.blobs import BlobStore
from portside.core.content import MAX_DOCUMENT
from portside.errors import PortsideError
from portside.oci.descriptor import INDEX, INDEXES, MANIFEST, MANIFESTS, Descriptor
from portside.oci.digest import Digest, chain_id
from portside.oci.image import ImageConfig, Index, Manifest, parse_config, parse_document


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a chain: ``parent`` is the chain below it, empty for the lowest."""

    descriptor: Descriptor
    diff_id: Digest
    parent: str


@dataclass(slots=True)
class Documents:
    """What the documents in a content store say."""

    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    indexes: dict[Digest, Index] = field(default_factory=dict)
    configs: dict[Digest, ImageConfig] = field(default_factory=dict)
    descriptors: dict[Digest, Descriptor] = field(default_factory=dict)
    """How blobs are called by the documents that name them, and documents by themselves."""
    chains: dict[str, Layer] = field(default_factory=dict)
    """Layers by chain ID."""

    def all(self) -> Iterator[tuple[Digest, Manifest | Index]]:
        """Indexes, then manifests."""
        yield from self.indexes.items()
        yield from self.manifests.items()

    def chain_of(self, manifest: Manifest) -> list[str]:
        """The chain IDs of a manifest's layers, lowest first; none if its configuration is not here."""
        config = self.configs.get(manifest.config.digest)
        if config is None or len(config.diff_ids) != len(manifest.layers):
            return []
        return [chain_id(list(config.diff_ids[: number + 1])) for number in range(len(config.diff_ids))]


def read_documents(blobs: BlobStore, sizes: Mapping[Digest, int]) -> Documents:
    """Try all of ``sizes`` that could be a document. Whether they are what their digests say is not looked at here."""
    found = Documents()
    for digest, size in sizes.items():
        if 2 <= size <= MAX_DOCUMENT and (data := _read(blobs, digest)).lstrip()[:1] == b"{":
            _document(found, digest, data)
    for manifest in found.manifests.values():
        if manifest.config.digest in sizes:
            data = _read(blobs, manifest.config.digest)
            try:
                found.configs[manifest.config.digest] = parse_config(data)
            except PortsideError:
                continue
        _chain(found, manifest)
    return found


def _document(found: Documents, digest: Digest, data: bytes) -> None:
    for media_type in _media_types(data):
        try:
            document = parse_document(data, media_type)
        except PortsideError:
            continue
        found.descriptors[digest] = Descriptor(media_type, digest, len(data))
        for child in document.children():
            found.descriptors.setdefault(child.digest, child)
        if isinstance(document, Manifest):
            found.manifests[digest] = document
        elif isinstance(document, Index):
            found.indexes[digest] = document
        return


def _media_types(data: bytes) -> Iterator[str]:
    """What a document can be: what it calls itself, else OCI's types by what it has in it."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        return
    own = document.get("mediaType")
    if own in INDEXES | MANIFESTS:
        yield own
    elif not own and "manifests" in document:
        yield INDEX
    elif not own and "layers" in document and "config" in document:
        yield MANIFEST


def _chain(found: Documents, manifest: Manifest) -> None:
    parent = ""
    config = found.configs.get(manifest.config.digest)
    for number, chain in enumerate(found.chain_of(manifest)):
        assert config is not None
        found.chains.setdefault(chain, Layer(manifest.layers[number], config.diff_ids[number], parent))
        parent = chain


def _read(blobs: BlobStore, digest: Digest) -> bytes:
    try:
        descriptor, size = blobs.open(digest)
    except PortsideError:
        return b""
    try:
        data = os.read(descriptor, min(size, MAX_DOCUMENT))
        return data if len(data) == size else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
