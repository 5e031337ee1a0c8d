"""Images: what there is, how large it is, and removing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portside.client.closure import manifest_of, walk
from portside.client.lookup import find_image
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import FailedPrecondition, InvalidArgument, NotFound
from portside.oci.digest import Digest
from portside.oci.platform import Platform
from portside.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """``size`` is that of its blobs here, compressed; ``id`` the digest of the configuration for this machine."""

    name: str
    digest: Digest
    media_type: str
    size: int
    created_ns: int
    id: str
    labels: Mapping[str, str]


async def list_images(services: Services, filters: Sequence[str] = ()) -> list[ImageSummary]:
    """By name; ``filters`` are the server's."""
    images = await services.images.list(filters)
    return [await summarize(services, image) for image in sorted(images, key=lambda image: image.name)]


async def summarize(services: Services, image: Image) -> ImageSummary:
    """One row; what is not here is not counted."""
    sizes: dict[Digest, int] = {}
    try:
        async for blob in walk(services, image.target):
            sizes[blob.digest] = blob.size
    except InvalidArgument:
        # A document that is not one: list the name, so that it can be removed.
        pass
    return ImageSummary(
        image.name, image.target.digest, image.target.media_type, sum(sizes.values()), image.created_ns,
        await image_id(services, image), image.labels,
    )  # fmt: skip


async def image_id(services: Services, image: Image, platform: Platform | None = None) -> str:
    """The configuration's digest, which names an image whatever registry it came from; empty if it is not here."""
    try:
        _, manifest = await manifest_of(services, image.target, platform)
    except (NotFound, InvalidArgument):
        return ""
    return manifest.config.digest


async def remove_image(services: Services, text: str, *, force: bool = False) -> list[str]:
    """Remove the name ``text`` stands for, and what only it kept, before this returns; the names removed.

    NotFound; FailedPrecondition if containers are made of it, unless ``force`` (they go on: their snapshots stay).
    """
    image = await find_image(services, text)
    if not force:
        users = await services.containers.list([f'image=="{image.name}"'])
        if users:
            raise FailedPrecondition(
                f"image {image.name}: container {users[0].id[:12]} is made of it; remove that first, or use force"
            )
    await services.images.delete(image.name, sync=True)
    return [image.name]


async def tag(services: Services, text: str, name: str) -> Image:
    """Give the image that ``text`` stands for one more name, replacing what that stood for."""
    from portside.client.store_image import store_image

    image = await find_image(services, text)
    return await store_image(services, str(Reference.parse_familiar(name)), image.target, image.labels)
