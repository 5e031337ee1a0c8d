"""The tree below an image: which documents it has here, and the labels by which the collector follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from portside.client.fetch import is_layer
from portside.core.content import read_blob
from portside.core.images import Image
from portside.core.labels import GC_REF_CONTENT
from portside.core.services import Services
from portside.errors import NotFound
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.digest import Digest
from portside.oci.image import ImageConfig, Index, Manifest, parse_config, parse_document, parse_manifest
from portside.oci.platform import Platform, host_platform

MAX_DEPTH = 8
"""Indexes within indexes; nobody nests more than one or two."""


def child_labels(document: Manifest | Index) -> dict[str, str]:
    """The labels that keep a document's children (containerd: images.ChildGCLabels): config, ``l.N``, ``m.N``."""
    labels: dict[str, str] = {}
    counts = {"m": 0, "l": 0, "": 0}
    for child in document.children():
        if isinstance(document, Manifest) and child is document.config:
            labels[f"{GC_REF_CONTENT}.config"] = child.digest
            continue
        kind = "m" if child.media_type in INDEXES | MANIFESTS else "l" if is_layer(child.media_type) else ""
        key = f"{GC_REF_CONTENT}.{kind}.{counts[kind]}" if kind else f"{GC_REF_CONTENT}.{counts[kind]}"
        counts[kind] += 1
        labels[key] = child.digest
    return labels


async def add_labels(services: Services, digest: Digest, labels: dict[str, str]) -> None:
    """Set those of ``labels`` that the blob does not have yet; NotFound."""
    info = await services.content.info(digest)
    missing = {key: value for key, value in labels.items() if info.labels.get(key) != value}
    if missing:
        await services.content.update(
            replace(info, labels={**info.labels, **missing}), tuple(f"labels.{key}" for key in missing)
        )


async def read_document(services: Services, descriptor: Descriptor) -> Manifest | Index:
    """The manifest or index that ``descriptor`` names, from the content store."""
    return parse_document(await read_blob(services.content, descriptor.digest), descriptor.media_type)


def by_platform(index: Index, wanted: Platform) -> list[Descriptor]:
    """The manifests of ``index`` that run on ``wanted``, best first; those without a platform last."""
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, child in enumerate(index.manifests):
        if child.media_type not in INDEXES | MANIFESTS:
            continue
        rank = wanted.rank_of(child.platform) if child.platform is not None else 1000
        if rank is not None:
            ranked.append((rank, position, child))
    return [child for _, _, child in sorted(ranked, key=lambda entry: entry[:2])]


async def manifest_of(
    services: Services, target: Descriptor, platform: Platform | None = None
) -> tuple[Descriptor, Manifest]:
    """The manifest below ``target`` that fits ``platform`` (this machine's) best and is here; NotFound."""
    wanted = platform or host_platform()
    found = await _manifest_of(services, target, wanted, MAX_DEPTH)
    if found is None:
        raise NotFound(f"image {target.digest}: nothing in it for {wanted} is here")
    return found


async def _manifest_of(
    services: Services, target: Descriptor, wanted: Platform, depth: int
) -> tuple[Descriptor, Manifest] | None:
    if target.media_type in MANIFESTS:
        return target, parse_manifest(await read_blob(services.content, target.digest), target.media_type)
    document = await read_document(services, target)
    assert isinstance(document, Index)
    for child in by_platform(document, wanted) if depth else ():
        try:
            found = await _manifest_of(services, child, wanted, depth - 1)
        except NotFound:
            continue
        if found is not None:
            return found
    return None


async def config_of(services: Services, manifest: Manifest) -> ImageConfig:
    """The image configuration of ``manifest``."""
    return parse_config(await read_blob(services.content, manifest.config.digest))


async def walk(services: Services, target: Descriptor, depth: int = MAX_DEPTH) -> AsyncIterator[Descriptor]:
    """Every blob below ``target`` that is here, children before parents, each once as often as it is named."""
    if target.media_type in INDEXES | MANIFESTS and depth:
        try:
            document = await read_document(services, target)
        except NotFound:
            return
        for child in document.children():
            async for found in walk(services, child, depth - 1):
                yield found
    try:
        await services.content.info(target.digest)
    except NotFound:
        return
    yield target


async def is_whole(services: Services, target: Descriptor, depth: int = MAX_DEPTH) -> bool:
    """Whether ``target`` and all below it are here; layers that are to be had elsewhere (``urls``) may be missing."""
    try:
        await services.content.info(target.digest)
        if target.media_type in INDEXES | MANIFESTS and depth:
            for child in (await read_document(services, target)).children():
                if not child.urls and not await is_whole(services, child, depth - 1):
                    return False
    except NotFound:
        return False
    return True


async def whole_target(services: Services, image: Image, platform: Platform | None = None) -> Descriptor:
    """What of ``image`` can be given away: all of it if it is here and no ``platform`` is asked for.

    Otherwise of an index the manifest for that, or this machine's, platform. NotFound if not even that is whole.
    """
    if platform is None and await is_whole(services, image.target):
        return image.target
    wanted = platform or host_platform()
    found = await _whole_manifest(services, image.target, wanted, MAX_DEPTH)
    if found is None:
        raise NotFound(f"image {image.name}: not all of it is here for {wanted}")
    return found


async def _whole_manifest(services: Services, target: Descriptor, wanted: Platform, depth: int) -> Descriptor | None:
    if target.media_type not in INDEXES:
        return target if await is_whole(services, target) else None
    try:
        document = await read_document(services, target)
    except NotFound:
        return None
    assert isinstance(document, Index)
    for child in by_platform(document, wanted) if depth else ():
        found = await _whole_manifest(services, child, wanted, depth - 1)
        if found is not None:
            return found
    return None
