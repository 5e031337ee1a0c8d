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
from portside.client.leasing import leased
from portside.client.progress import DONE, RESOLVED, RESOLVING, WAITING, Progress, ProgressCallback, ignore
from portside.client.sources import Source
from portside.client.store_image import store_image
from portside.client.unpack import Arrival, unpack
from portside.core.content import read_blob
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import InvalidArgument, NotFound
from portside.oci.descriptor import CONFIG, DOCKER_CONFIG, INDEXES, MANIFESTS, Descriptor
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
    snapshotter: str = ""
    unpack: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    max_downloads: int = MAX_DOWNLOADS
    name: str = ""
    """What to call the image; empty: the reference itself."""


async def pull(
    services: Services, source: Source, reference: Reference, options: PullOptions | None = None,
    *, progress: ProgressCallback = ignore, flights: Flights | None = None,
) -> Image:  # fmt: skip
    """Fetch, unpack and name an image.

    NotFound if the registry has no such image or it has nothing for the platform; DataLoss for content that is not
    what its digest says; errors of the registry as they come. Nothing becomes visible unless all went well.
    """
    chosen = options or PullOptions()
    progress(Progress(str(reference), RESOLVING))
    target = await source.resolve(reference)
    progress(Progress(str(reference), RESOLVED, 0, target.size))
    async with leased(services) as held:
        work = _Pull(held, source, reference, chosen, progress, flights or Flights())
        await work.run(target)
        image = await store_image(held, chosen.name or str(reference), target, chosen.labels)
    progress(Progress(str(reference), DONE))
    return image


class _Pull:
    """One pull at work."""

    def __init__(
        self, services: Services, source: Source, reference: Reference, options: PullOptions,
        progress: ProgressCallback, flights: Flights,
    ) -> None:  # fmt: skip
        self._services, self._source, self._reference = services, source, reference
        self._options, self._progress, self._flights = options, progress, flights
        self._slots = asyncio.Semaphore(max(1, options.max_downloads))

    async def run(self, target: Descriptor) -> None:
        """Everything below ``target`` that is wanted."""
        wanted = self._options.platforms or (host_platform(),)
        manifests = await self._manifests(target, wanted, MAX_DEPTH)
        if not manifests:
            asked = ", ".join(map(str, wanted))
            raise NotFound(f"image {self._reference}: nothing in it for {asked}")
        for descriptor, manifest in manifests:
            try:
                await self._image(descriptor, manifest, wanted)
            except BaseExceptionGroup as group:
                error = first_error(group)
                raise error from error.__cause__

    async def _document(self, descriptor: Descriptor) -> Manifest | Index:
        if descriptor.media_type not in INDEXES | MANIFESTS:
            raise InvalidArgument(
                f"image {self._reference}: {descriptor.media_type[:120]!r} is neither a manifest nor an index"
            )
        data = await fetch_document(
            self._services, self._source, self._reference, descriptor, self._progress, self._flights
        )
        document = parse_document(data, descriptor.media_type)
        await add_labels(self._services, descriptor.digest, child_labels(document))
        return document

    async def _manifests(
        self, target: Descriptor, wanted: Sequence[Platform], depth: int
    ) -> list[tuple[Descriptor, Manifest]]:
        """The manifests to fetch: of each index the best one for each platform wanted, or all of them."""
        document = await self._document(target)
        if isinstance(document, Manifest):
            return [(target, document)]
        if not depth:
            raise InvalidArgument(f"image {self._reference}: more than {MAX_DEPTH} indexes within each other")
        if self._options.all_platforms:
            found = []
            for child in document.manifests:
                if child.media_type in INDEXES | MANIFESTS:
                    found += await self._manifests(child, wanted, depth - 1)
            return found
        chosen: list[tuple[Descriptor, Manifest]] = []
        for platform in wanted:
            for child in by_platform(document, platform):
                deeper = await self._manifests(child, (platform,), depth - 1)
                if deeper:
                    chosen += [entry for entry in deeper if entry not in chosen]
                    break
        return chosen

    async def _image(self, descriptor: Descriptor, manifest: Manifest, wanted: Sequence[Platform]) -> None:
        """Blobs of one manifest, and its snapshots if it runs on a platform that is wanted."""
        for layer in manifest.layers:
            self._progress(Progress(ref_of(layer), WAITING, 0, layer.size))
        async with asyncio.TaskGroup() as group:
            blobs = {child.digest: group.create_task(self._blob(child)) for child in manifest.children()}

            async def arrival(layer: Descriptor) -> None:
                await asyncio.shield(blobs[layer.digest])

            if self._options.unpack:
                group.create_task(self._unpack(descriptor, manifest, wanted, arrival, blobs[manifest.config.digest]))

    async def _blob(self, descriptor: Descriptor) -> None:
        async with self._slots:
            await fetch(self._services, self._source, self._reference, descriptor, self._progress, self._flights)

    async def _unpack(
        self, descriptor: Descriptor, manifest: Manifest, wanted: Sequence[Platform],
        arrival: Arrival, config_blob: asyncio.Task[None],
    ) -> None:  # fmt: skip
        await asyncio.shield(config_blob)
        if descriptor.annotations.get("vnd.docker.reference.type") or not _is_image(manifest):
            return
        config = parse_config(await read_blob(self._services.content, manifest.config.digest))
        if not any(platform.rank_of(config.platform) is not None for platform in wanted):
            return
        await unpack(
            self._services, manifest, config, self._options.snapshotter,
            arrival=arrival, progress=self._progress, flights=self._flights,
        )  # fmt: skip


def _is_image(manifest: Manifest) -> bool:
    """Whether its configuration is that of an image that runs, not of an artifact."""
    return manifest.config.media_type in (CONFIG, DOCKER_CONFIG)
