"""Manifests, indexes and image configurations as typed data (OCI image-spec: manifest.md, image-index.md, config.md).

Parsing is strict about what would make one document mean two things (CVE-2021-41190) and about types; fields that we
do not use are left alone. Docker's schema 2 documents are the same with other media types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from portside.errors import InvalidArgument
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.digest import Digest
from portside.oci.platform import Platform

MAX_LAYERS = 1024
"""Layers of one image, and manifests of one index; overlayfs stops at some 500, real images far below."""
MAX_MANIFESTS = 4096


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's manifest."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    def children(self) -> tuple[Descriptor, ...]:
        """Config first, then layers, lowest first."""
        return (self.config, *self.layers)

    def to_json(self) -> dict[str, Any]:
        """As the document."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests, one for each platform or purpose."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    def children(self) -> tuple[Descriptor, ...]:
        """The manifests in their order."""
        return self.manifests

    def to_json(self) -> dict[str, Any]:
        """As the document."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.to_json() for manifest in self.manifests],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image's configuration says about running it; times and history are left out."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()


def parse_document(data: bytes, media_type: str) -> Manifest | Index:
    """The manifest or index in ``data``, which its descriptor calls ``media_type``; InvalidArgument."""
    if media_type in INDEXES:
        return parse_index(data, media_type)
    if media_type in MANIFESTS:
        return parse_manifest(data, media_type)
    raise InvalidArgument(f"media type {media_type[:120]!r}: neither a manifest nor an index")


def parse_manifest(data: bytes, media_type: str) -> Manifest:
    """InvalidArgument if it also is an index, calls itself something else, or is not well formed."""
    document = _object(data, "manifest")
    _check_kind(document, media_type, forbidden=("manifests", "fsLayers", "history"))
    layers = _list(document, "layers", MAX_LAYERS)
    if "config" not in document:
        raise InvalidArgument("manifest: no config")
    parsed = tuple(Descriptor.from_json(layer) for layer in layers)
    return Manifest(media_type, Descriptor.from_json(document["config"]), parsed, _strings(document, "annotations"))


def parse_index(data: bytes, media_type: str) -> Index:
    """InvalidArgument if it also is a manifest, calls itself something else, or is not well formed."""
    document = _object(data, "index")
    _check_kind(document, media_type, forbidden=("layers", "config", "fsLayers", "history"))
    manifests = _list(document, "manifests", MAX_MANIFESTS)
    return Index(
        media_type, tuple(Descriptor.from_json(child) for child in manifests), _strings(document, "annotations")
    )


def parse_config(data: bytes) -> ImageConfig:
    """InvalidArgument for what is not an image configuration, as an artifact's is not."""
    document = _object(data, "image config")
    rootfs = document.get("rootfs") or {}
    if not isinstance(rootfs, dict) or rootfs.get("type", "layers") != "layers":
        raise InvalidArgument("image config: rootfs must be an object of type layers")
    diff_ids = _list(rootfs, "diff_ids", MAX_LAYERS)
    if not all(isinstance(diff_id, str) for diff_id in diff_ids):
        raise InvalidArgument("image config: diff_ids must be strings")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise InvalidArgument("image config: config must be an object")
    return ImageConfig(
        platform=Platform.from_json(document),
        diff_ids=tuple(Digest.parse(diff_id) for diff_id in diff_ids),
        user=_string(config, "User"),
        env=_texts(config, "Env"),
        entrypoint=_texts(config, "Entrypoint"),
        cmd=_texts(config, "Cmd"),
        working_dir=_string(config, "WorkingDir"),
        labels=_strings(config, "Labels"),
        stop_signal=_string(config, "StopSignal"),
        volumes=_keys(config, "Volumes"),
        exposed_ports=_keys(config, "ExposedPorts"),
    )


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what}: not JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: not a JSON object")
    return document


def _check_kind(document: dict[str, Any], media_type: str, forbidden: tuple[str, ...]) -> None:
    own = document.get("mediaType", "")
    if own not in ("", media_type):
        raise InvalidArgument(f"document calls itself {str(own)[:120]!r} and was delivered as {media_type!r}")
    both = [name for name in forbidden if document.get(name)]
    if both:
        raise InvalidArgument(
            f"document delivered as {media_type!r} also has {', '.join(both)}: it could mean two things"
        )
    if document.get("schemaVersion", 2) != 2:
        raise InvalidArgument(f"schema version {str(document.get('schemaVersion'))[:20]}: only 2 is supported")


def _list(document: dict[str, Any], key: str, limit: int) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidArgument(f"{key}: want a list")
    if len(value) > limit:
        raise InvalidArgument(f"{key}: {len(value)} entries, more than {limit}")
    return value


def _string(document: dict[str, Any], key: str) -> str:
    value = document.get(key) or ""
    if not isinstance(value, str):
        raise InvalidArgument(f"image config: {key} must be a string")
    return value


def _texts(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"image config: {key} must be a list of strings")
    return tuple(value)


def _strings(document: dict[str, Any], key: str) -> dict[str, str]:
    value = document.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidArgument(f"{key}: want an object of strings")
    return value


def _keys(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"image config: {key} must be an object")
    return tuple(value)
