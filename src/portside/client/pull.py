"""Pull: a reference becomes an image, its blobs content, its layers snapshots.

All blobs are fetched side by side, with a bound; layers are unpacked in order while later ones still arrive. Until
the image's name is written last, a lease holds everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portside.client.closure import MAX_DEPTH, add_labels, by_platform, child_labels
from portside.client.fetch import fetch, fetch_document, ref_of
from portside.client.flights import Flights, first_error
from portside.client.hints import pull_hints
from portside.client.leasing import leased
from portside.client.progress import DONE, RESOLVED, RESOLVING, WAITING, Progress, ProgressCallback, ignore
from portside.client.sources import Source
from portside.client.store_image import store_image
from portside.client.unpack import Arrival, unpack
from portside.core.content import read_blob
from portside.core.images import Image
from portside.core.services import Services
from portside.core.transfer import UnpackConfiguration
from portside.errors import InvalidArgument, NotFound
from portside.oci.descriptor import CONFIG, DOCKER_CONFIG, INDEXES, MANIFESTS, Descriptor
from portside.oci.digest import Digest
from portside.oci.image import Index, Manifest, parse_config, parse_document
from portside.oci.platform import Platform, host_platform
from portside.oci.reference import Reference

MAX_DOWNLOADS = 4
"""Blobs fetched at the same time by one pull; more only makes registries throttle."""


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How to pull. ``platforms`` empty: the best one for this machine; ``all_platforms`` fetches every one."""

    platforms: Sequence[Platform] = ()
    all_platforms: bool = False
    all_metadata: bool = False
    """Manifests and configurations of the other platforms too, as far as they are to be had."""
    manifest_limit: int = 0
    """Of each index at most so many manifests; 0: all that are wanted."""
    snapshotter: str = ""
    unpack: bool = True
    """Unpack what runs on ``platforms``, into ``snapshotter``."""
    unpacks: Sequence[UnpackConfiguration] = ()
    """What to unpack besides, and where."""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_downloads: int = MAX_DOWNLOADS
    name: str = ""
    """What to call the image; empty: the reference itself."""


async def pull(
    services: Services, source: Source, reference: Reference, options: PullOptions | None = None,
    *, progress: ProgressCallback = ignore, flights: Flights | None = None,
) -> Image:  # fmt: skip
    """Fetch, unpack and name an image.

    NotFound if the registry has no such image or it has nothing for the platform; PermissionDenied if a verifier says
    so; DataLoss for content that is not what its digest says; errors of the registry as they come. Nothing becomes
    visible unless all went well.
    """
    chosen = options or PullOptions()
    progress(Progress(str(reference), RESOLVING))
    target = await source.resolve(reference)
    progress(Progress(str(reference), RESOLVED, 0, target.size))
    await services.verify_image(str(reference), target)
    async with leased(services) as held:
        await fetch_tree(held, source, reference, target, chosen, progress=progress, flights=flights)
        image = await store_image(held, chosen.name or str(reference), target, chosen.labels)
    progress(Progress(str(reference), DONE))
    return image


async def fetch_tree(
    services: Services, source: Source, reference: Reference, target: Descriptor, options: PullOptions,
    *, progress: ProgressCallback = ignore, flights: Flights | None = None,
) -> None:  # fmt: skip
    """What of ``target`` is wanted, fetched and unpacked, without a name; ``services`` has the lease that holds it."""
    await _Pull(services, source, reference, options, progress, flights or Flights()).run(target)


class _Pull:
    """One pull at work."""

    def __init__(
        self, services: Services, source: Source, reference: Reference, options: PullOptions,
        progress: ProgressCallback, flights: Flights,
    ) -> None:  # fmt: skip
        self._services, self._source, self._reference = services, source, reference
        self._options, self._progress, self._flights = options, progress, flights
        self._slots = asyncio.Semaphore(max(1, options.max_downloads))
        self._wanted = options.platforms or (host_platform(),)
        self._unpacks = [(each.platform or host_platform(), each.snapshotter) for each in options.unpacks]
        if options.unpack:
            self._unpacks += [(platform, options.snapshotter) for platform in self._wanted]

    async def run(self, target: Descriptor) -> None:
        """Everything below ``target`` that is wanted."""
        wanted = self._wanted
        manifests = await self._manifests(target, "", wanted, MAX_DEPTH)
        if not manifests:
            asked = ", ".join(map(str, wanted))
            raise NotFound(f"image {self._reference}: nothing in it for {asked}")
        for descriptor, manifest in manifests:
            try:
                await self._image(descriptor, manifest)
            except BaseExceptionGroup as group:
                error = first_error(group)
                raise error from error.__cause__

    async def _document(self, descriptor: Descriptor, parent: str) -> Manifest | Index:
        if descriptor.media_type not in INDEXES | MANIFESTS:
            raise InvalidArgument(
                f"image {self._reference}: {descriptor.media_type[:120]!r} is neither a manifest nor an index"
            )
        self._tell(descriptor, parent)
        data = await fetch_document(
            self._services, self._source, self._reference, descriptor, self._progress, self._flights
        )
        document = parse_document(data, descriptor.media_type)
        await add_labels(self._services, descriptor.digest, child_labels(document))
        return document

    def _tell(self, descriptor: Descriptor, parent: str) -> None:
        """Something new is wanted, found in the object ``parent``."""
        parent = parent or str(self._reference)
        self._progress(Progress(ref_of(descriptor), WAITING, 0, descriptor.size, descriptor, parent))

    async def _manifests(
        self, target: Descriptor, parent: str, wanted: Sequence[Platform], depth: int
    ) -> list[tuple[Descriptor, Manifest]]:
        """The manifests to fetch: of each index the best one for each platform wanted, or all of them."""
        document = await self._document(target, parent)
        if isinstance(document, Manifest):
            return [(target, document)]
        if not depth:
            raise InvalidArgument(f"image {self._reference}: more than {MAX_DEPTH} indexes within each other")
        limit = self._options.manifest_limit or len(document.manifests)
        if self._options.all_platforms:
            found = []
            for child in [each for each in document.manifests if each.media_type in INDEXES | MANIFESTS][:limit]:
                found += await self._manifests(child, ref_of(target), wanted, depth - 1)
            return found
        chosen: list[tuple[Descriptor, Manifest]] = []
        for platform in wanted:
            for child in by_platform(document, platform):
                deeper = await self._manifests(child, ref_of(target), (platform,), depth - 1)
                if deeper:
                    chosen += [entry for entry in deeper if entry not in chosen]
                    break
            if len(chosen) >= limit:
                break
        if self._options.all_metadata and chosen:
            await self._metadata(target, document, {descriptor.digest for descriptor, _ in chosen})
        return chosen

    async def _metadata(self, index: Descriptor, document: Index, chosen: set[Digest]) -> None:
        """Manifests and configurations for the platforms that are not wanted; what a registry lacks is left out."""
        for child in document.manifests:
            if child.media_type not in MANIFESTS or child.digest in chosen:
                continue
            try:
                manifest = await self._document(child, ref_of(index))
                assert isinstance(manifest, Manifest)
                self._tell(manifest.config, ref_of(child))
                await self._blob(manifest.config)
            except NotFound:
                continue

    async def _image(self, descriptor: Descriptor, manifest: Manifest) -> None:
        """Blobs of one manifest, and its snapshots if it runs on a platform that is wanted."""
        for child in manifest.children():
            self._tell(child, ref_of(descriptor))
        is_lazy = bool(self._unpacks) and all(self._services.is_foreign(name) for _, name in self._unpacks)
        blobs: dict[Digest, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:

            def begin(children: Sequence[Descriptor]) -> None:
                for child in children:
                    if child.digest not in blobs:
                        blobs[child.digest] = group.create_task(self._blob(child))

            async def arrival(layer: Descriptor) -> None:
                # One that a lazy snapshotter does not have makes it likely that it has none of those above.
                begin(manifest.layers[manifest.layers.index(layer) :])
                await asyncio.shield(blobs[layer.digest])

            begin([manifest.config] if is_lazy else list(manifest.children()))
            if self._unpacks:
                unpacking = self._unpack(descriptor, manifest, arrival, blobs[manifest.config.digest])
                if not await group.create_task(unpacking):
                    begin(manifest.layers)

    async def _blob(self, descriptor: Descriptor) -> None:
        async with self._slots:
            await fetch(self._services, self._source, self._reference, descriptor, self._progress, self._flights)

    async def _unpack(
        self, descriptor: Descriptor, manifest: Manifest, arrival: Arrival, config_blob: asyncio.Task[None]
    ) -> bool:
        """False if there is nothing to unpack."""
        await asyncio.shield(config_blob)
        if descriptor.annotations.get("vnd.docker.reference.type") or not _is_image(manifest):
            return False
        config = parse_config(await read_blob(self._services.content, manifest.config.digest))
        fitting = [name for platform, name in self._unpacks if platform.rank_of(config.platform) is not None]
        for snapshotter in dict.fromkeys(fitting):
            await unpack(
                self._services, manifest, config, snapshotter, arrival=arrival,
                hints=pull_hints(str(self._reference), descriptor, manifest),
                progress=self._progress, flights=self._flights,
            )  # fmt: skip
        return bool(fitting)


def _is_image(manifest: Manifest) -> bool:
    """Whether its configuration is that of an image that runs, not of an artifact."""
    return manifest.config.media_type in (CONFIG, DOCKER_CONFIG)
