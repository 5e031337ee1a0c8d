"""The pairs of registries and the image store: pull, push, tag, mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from portside.client.closure import is_whole
from portside.client.leasing import leased
from portside.client.pull import PullOptions, fetch_tree
from portside.client.push import push as send
from portside.core.images import Image
from portside.core.services import Services
from portside.core.transfer import ImageStore, OCIRegistry
from portside.engine.transfer.config import TransferConfig
from portside.engine.transfer.names import store_names
from portside.engine.transfer.origin import OriginContent
from portside.engine.transfer.progress import Teller
from portside.engine.transfer.registries import registry_of
from portside.errors import InvalidArgument, NotFound
from portside.oci.reference import Reference


async def pull(
    services: Services, source: OCIRegistry, destination: ImageStore, config: TransferConfig, tell: Teller
) -> None:
    """Fetch an image, unpack it as asked, and give it its names."""
    reference = Reference.parse(source.reference)
    for each in destination.unpacks:
        services.snapshotter(each.snapshotter)  # that there is none of that name is told before anything is fetched
    options = PullOptions(
        platforms=destination.platforms,
        all_platforms=not destination.platforms,
        all_metadata=destination.all_metadata,
        manifest_limit=destination.manifest_limit,
        unpack=False,
        unpacks=destination.unpacks,
        max_downloads=config.max_concurrent_downloads,
    )
    tell.say(f"Resolving from {source}")
    async with registry_of(source, config) as registry, leased(services) as held:
        target = await registry.resolve(reference)
        await services.verify_image(source.reference, target)
        tell.say(f"Pulling from {source}")
        tell.say("fetching image content", source.reference, target)
        await fetch_tree(held, registry, reference, target, options, progress=tell, flights=config.flights)
        images = await store_names(held, destination, target)
    for image in images:
        tell.say("saved", image.name, image.target)
    tell.say(f"Completed pull from {source}")


async def push(
    services: Services, source: ImageStore, destination: OCIRegistry, config: TransferConfig, tell: Teller
) -> None:
    """Send an image, or what of it is for the one platform that the source names."""
    reference = Reference.parse(destination.reference)
    image = await services.images.get(source.name)
    platform = source.platforms[0] if len(source.platforms) == 1 else None
    if len(source.platforms) > 1 and not await is_whole(services, image.target):
        raise NotFound(f"push {image.name}: for several platforms all of it must be here, and is not")
    tell.say(f"Pushing to {destination}")
    tell.say("pushing content", image.name, image.target)
    async with registry_of(destination, config) as registry, leased(services) as held:
        sent = await send(
            held, registry, image, reference,
            platform=platform, max_uploads=config.max_concurrent_uploaded_layers, progress=tell,
        )  # fmt: skip
    tell.say("pushed content", image.name, sent)
    tell.say(f"Completed push to {destination}", "", sent)


async def tag(services: Services, source: ImageStore, destination: ImageStore) -> None:
    """Give an image one more name, replacing what that stood for. Nothing is told of it."""
    image = await services.images.get(source.name)
    await store_names(services, destination, image.target)


async def mirror(source: OCIRegistry, destination: OCIRegistry, config: TransferConfig, tell: Teller) -> None:
    """All of an image, every platform, from one registry to another; nothing of it is kept here."""
    reference, wanted = Reference.parse(source.reference), Reference.parse(destination.reference)
    tell.say(f"Resolving from {source}")
    async with registry_of(source, config) as origin, registry_of(destination, config) as registry:
        target = await origin.resolve(reference)
        if wanted.digest not in (None, target.digest):
            raise InvalidArgument(f"mirror {reference} to {wanted}: it is {target.digest}")
        tell.say(f"Pushing to {destination}")
        tell.say("pushing content", destination.reference, target)
        await send(
            cast(Services, _OfOrigin(OriginContent(origin, reference, target))), registry,
            Image(destination.reference, target), wanted,
            max_uploads=config.max_concurrent_uploaded_layers, progress=tell,
        )  # fmt: skip
    tell.say("pushed content", destination.reference, target)
    tell.say(f"Completed push to {destination}", "", target)


@dataclass(frozen=True, slots=True)
class _OfOrigin:
    """What ``client.push`` needs of services: where it reads from."""

    content: OriginContent
