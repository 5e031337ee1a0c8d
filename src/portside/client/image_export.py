"""Export: images as one archive that containerd, Docker, podman and skopeo read: an OCI image layout with docker's
``manifest.json`` beside it. What is here is exported; an index of which only a part is here becomes that part, or
stays what it is with only that part beside it (``ExportOptions.keep_index``), as containerd's own exports have it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from portside.client.closure import is_whole, manifest_of, read_document, walk, whole_target
from portside.client.image_import import NAME_ANNOTATION, REF_ANNOTATION
from portside.client.progress import DONE, SAVING, Progress, ProgressCallback, ignore
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import InvalidArgument, NotFound
from portside.layers.tar import DIRECTORY, REGULAR, Entry
from portside.layers.tarwriter import END, header, padding
from portside.oci.descriptor import INDEX, INDEXES, MANIFESTS, Descriptor
from portside.oci.image import Index
from portside.oci.platform import Platform, host_platform
from portside.oci.reference import DEFAULT_HOST, Reference

CHUNK = 1 << 20
_NON_DISTRIBUTABLE = (".nondistributable.", ".foreign.")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What of images goes into an archive."""

    keep_index: bool = False
    """Indexes go as they are, with what of them is for ``platforms`` (empty: this machine's)."""
    platforms: Sequence[Platform] = ()
    all_platforms: bool = False
    """With ``keep_index``: all that indexes name must be here, and goes."""
    docker_manifest: bool = True
    non_distributable: bool = True
    """Also layers that their makers do not want to be given away."""


async def export_images(
    services: Services,
    images: Sequence[Image],
    platform: Platform | None = None,
    *,
    options: ExportOptions | None = None,
    progress: ProgressCallback = ignore,
) -> AsyncGenerator[bytes, None]:
    """The archive's bytes; with ``platform``, of an index only that manifest.

    NotFound if an image is not here whole, before the first byte.
    """
    if not images:
        raise InvalidArgument("export: no images")
    options = options or ExportOptions()
    targets, blobs = await _chosen(services, images, platform, options)
    for directory in ("blobs/", *sorted({path.rpartition("/")[0] + "/" for path in blobs})):
        yield _header(directory, 0, DIRECTORY)
    for path in sorted(blobs):
        async for chunk in _blob(services, path, blobs[path], progress):
            yield chunk
    index = Index(INDEX, tuple(_named(name, target) for name, target in targets))
    documents: list[tuple[str, Any]] = [
        ("index.json", index.to_json()),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
    ]
    if options.docker_manifest:
        first = platform or next(iter(options.platforms), None)
        documents.insert(1, ("manifest.json", await _docker(services, targets, first)))
    for path, document in documents:
        data = json.dumps(document, separators=(",", ":")).encode()
        yield _header(path, len(data), REGULAR) + data + padding(len(data))
    yield END
    for name, _ in targets:
        progress(Progress(name, DONE))


async def _chosen(
    services: Services, images: Sequence[Image], platform: Platform | None, options: ExportOptions
) -> tuple[list[tuple[str, Descriptor]], dict[str, Descriptor]]:
    """Names with what they stand for, and the blobs by path."""
    targets: list[tuple[str, Descriptor]] = []
    blobs: dict[str, Descriptor] = {}
    for image in images:
        if options.keep_index:
            target = image.target
            found = await _of_platforms(services, image, options)
        else:
            target = await whole_target(services, image, platform)
            found = [blob async for blob in walk(services, target)]
        targets.append((image.name, target))
        blobs |= {_path(blob): blob for blob in found if options.non_distributable or _may_be_given(blob)}
    return targets, blobs


async def _of_platforms(services: Services, image: Image, options: ExportOptions) -> list[Descriptor]:
    """The image's target and, of an index, what is for one of the platforms; NotFound if any of it is not here."""
    if image.target.media_type not in INDEXES | MANIFESTS:
        raise InvalidArgument(f"export {image.name}: {image.target.media_type[:120]!r} is no image")
    document = await read_document(services, image.target)
    parts = [image.target]
    if isinstance(document, Index):
        wanted = options.platforms or (host_platform(),)
        parts = [each for each in document.manifests if options.all_platforms or _is_for(each, wanted)]
        if not parts:
            raise NotFound(f"export {image.name}: nothing in it for {', '.join(map(str, wanted))}")
    found: list[Descriptor] = []
    for part in parts:
        if not await is_whole(services, part):
            raise NotFound(f"export {image.name}: not all of {part.digest} ({part.platform or 'no platform'}) is here")
        found += [blob async for blob in walk(services, part)]
    return [*found, *([] if image.target in parts else [image.target])]


def _is_for(part: Descriptor, wanted: Sequence[Platform]) -> bool:
    offered = part.platform
    return offered is None or any(platform.rank_of(offered) is not None for platform in wanted)


def _may_be_given(blob: Descriptor) -> bool:
    return not any(mark in blob.media_type for mark in _NON_DISTRIBUTABLE)


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
