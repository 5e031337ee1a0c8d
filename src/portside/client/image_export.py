"""Export: images as one archive that containerd, Docker, podman and skopeo read: an OCI image layout with docker's
``manifest.json`` beside it. What is here is exported; an index of which only a part is here becomes that part.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from portside.client.closure import manifest_of, walk, whole_target
from portside.client.image_import import NAME_ANNOTATION, REF_ANNOTATION
from portside.client.progress import DONE, SAVING, Progress, ProgressCallback, ignore
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import InvalidArgument, NotFound
from portside.layers.tar import DIRECTORY, REGULAR, Entry
from portside.layers.tarwriter import END, header, padding
from portside.oci.descriptor import INDEX, Descriptor
from portside.oci.image import Index
from portside.oci.platform import Platform
from portside.oci.reference import DEFAULT_HOST, Reference

CHUNK = 1 << 20


async def export_images(
    services: Services,
    images: Sequence[Image],
    platform: Platform | None = None,
    *,
    progress: ProgressCallback = ignore,
) -> AsyncIterator[bytes]:
    """The archive's bytes; with ``platform``, of an index only that manifest.

    NotFound if an image is not here whole, before the first byte.
    """
    if not images:
        raise InvalidArgument("export: no images")
    targets = [(image.name, await whole_target(services, image, platform)) for image in images]
    blobs: dict[str, Descriptor] = {}
    for _, target in targets:
        async for blob in walk(services, target):
            blobs[f"blobs/{blob.digest.algorithm}/{blob.digest.hex}"] = blob
    for directory in ("blobs/", *sorted({path.rpartition("/")[0] + "/" for path in blobs})):
        yield _header(directory, 0, DIRECTORY)
    for path in sorted(blobs):
        async for chunk in _blob(services, path, blobs[path], progress):
            yield chunk
    index = Index(INDEX, tuple(_named(name, target) for name, target in targets))
    for path, document in (
        ("index.json", index.to_json()),
        ("manifest.json", await _docker(services, targets, platform)),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
    ):
        data = json.dumps(document, separators=(",", ":")).encode()
        yield _header(path, len(data), REGULAR) + data + padding(len(data))
    yield END
    for name, _ in targets:
        progress(Progress(name, DONE))


async def _blob(services: Services, path: str, blob: Descriptor, progress: ProgressCallback) -> AsyncIterator[bytes]:
    reader = await services.content.open(blob.digest)
    try:
        yield _header(path, reader.size, REGULAR)
        offset = 0
        while offset < reader.size:
            progress(Progress(path, SAVING, offset, reader.size))
            data = await reader.read(offset, min(CHUNK, reader.size - offset))
            if not data:
                raise NotFound(f"blob {blob.digest}: went away while it was read")
            offset += len(data)
            yield data
        yield padding(offset)
    finally:
        await reader.close()


def _header(path: str, size: int, kind: bytes) -> bytes:
    entry = Entry(path.encode(), kind)
    entry.size, entry.mode = size, 0o755 if kind == DIRECTORY else 0o444
    return header(entry)


def _named(name: str, target: Descriptor) -> Descriptor:
    annotations = {**target.annotations, NAME_ANNOTATION: name}
    try:
        tag = Reference.parse(name).tag
    except InvalidArgument:
        tag = ""
    if tag:
        annotations[REF_ANNOTATION] = tag
    return replace(target, annotations=annotations)


async def _docker(
    services: Services, targets: Sequence[tuple[str, Descriptor]], platform: Platform | None
) -> list[dict[str, Any]]:
    """docker's own list; an image without a manifest for this machine is not in it."""
    entries: dict[str, dict[str, Any]] = {}
    for name, target in targets:
        try:
            descriptor, manifest = await manifest_of(services, target, platform)
        except (NotFound, InvalidArgument):
            continue
        entry = entries.setdefault(
            descriptor.digest,
            {
                "Config": _path(manifest.config),
                "RepoTags": [],
                "Layers": [_path(layer) for layer in manifest.layers],
            },
        )
        tag = _familiar(name)
        if tag:
            entry["RepoTags"].append(tag)
    return list(entries.values())


def _path(blob: Descriptor) -> str:
    return f"blobs/{blob.digest.algorithm}/{blob.digest.hex}"


def _familiar(name: str) -> str:
    """``busybox:latest`` for ``docker.io/library/busybox:latest``; empty for what has no tag."""
    try:
        reference = Reference.parse(name)
    except InvalidArgument:
        return ""
    if not reference.tag:
        return ""
    path = reference.path.removeprefix("library/") if reference.host == DEFAULT_HOST else reference.name
    return f"{path}:{reference.tag}"
