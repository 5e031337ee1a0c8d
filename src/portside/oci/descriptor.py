"""Descriptors and media types (OCI image-spec, descriptor.md, media-types.md; Docker's schema 2 names beside)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from portside.errors import InvalidArgument
from portside.oci.digest import Digest
from portside.oci.platform import Platform

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = frozenset({INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob is, where it is named, and how large it is."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    """Where else the blob may be had (foreign layers); whoever fetches from there sends no credentials."""

    @classmethod
    def from_json(cls, document: Any) -> Descriptor:
        """Read one from a decoded manifest or index; a missing or odd field is InvalidArgument."""
        if not isinstance(document, dict):
            raise InvalidArgument("descriptor: not a JSON object")
        media_type, digest, size = (document.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise InvalidArgument("descriptor: mediaType and digest must be strings")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise InvalidArgument(f"descriptor {digest}: size {size!r} is not a length")
        annotations = document.get("annotations") or {}
        if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
            raise InvalidArgument(f"descriptor {digest}: annotations must be an object of strings")
        platform = document.get("platform")
        urls = document.get("urls") or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise InvalidArgument(f"descriptor {digest}: urls must be a list of strings")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            annotations,
            Platform.from_json(platform) if platform is not None else None,
            tuple(urls),
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest or an index."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            document["urls"] = list(self.urls)
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform is not None:
            document["platform"] = self.platform.to_json()
        return document
