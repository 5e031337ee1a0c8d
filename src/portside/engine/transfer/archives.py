"""The pairs of archives and the image store: import, export, and echo."""

from __future__ import annotations

from contextlib import aclosing

from portside.client.image_export import ExportOptions, export_images
from portside.client.image_import import ImportOptions, import_images
from portside.client.leasing import leased
from portside.core.images import Image
from portside.core.services import Services
from portside.core.transfer import ImageExportStream, ImageImportStream, ImageStore
from portside.engine.transfer.config import TransferConfig
from portside.engine.transfer.names import names_in_archive
from portside.engine.transfer.progress import Teller
from portside.errors import InvalidArgument, Unimplemented


async def import_archive(
    services: Services, source: ImageImportStream, destination: ImageStore, config: TransferConfig, tell: Teller
) -> None:
    """Read an archive, unpack as asked, and name its images."""
    for each in destination.unpacks:
        services.snapshotter(each.snapshotter)
    options = ImportOptions(
        unpack=False,
        labels=destination.labels,
        index_name=destination.name,
        platforms=destination.platforms,
        unpacks=destination.unpacks,
        names=names_in_archive(destination),
        compress=source.force_compress,
        plain=bool(source.media_type),
    )
    tell.say("Importing")
    images = await import_images(services, source.chunks, options, flights=config.flights)
    for image in images:
        tell.say("saved", image.name, image.target)
    tell.say("Completed import")


async def export_archive(services: Services, source: ImageStore, destination: ImageExportStream, tell: Teller) -> None:
    """Write the images that the source names as one archive."""
    options = ExportOptions(
        keep_index=True,
        platforms=destination.platforms,
        all_platforms=destination.all_platforms,
        docker_manifest=not destination.skip_compatibility_manifest,
        non_distributable=not destination.skip_non_distributable,
    )
    tell.say("Exporting")
    async with leased(services) as held:
        images = await _images(held, source)
        async with aclosing(export_images(held, images, options=options)) as chunks:
            async for chunk in chunks:
                await destination.write(chunk)
    tell.say("Completed export")


async def echo(source: ImageImportStream, destination: ImageExportStream) -> None:
    """The bytes as they come."""
    async for chunk in source.chunks:
        await destination.write(chunk)


async def _images(services: Services, source: ImageStore) -> list[Image]:
    """All that the source names; NotFound."""
    names = [source.name] if source.name else []
    for each in source.extra_references:
        if each.is_prefix:
            raise Unimplemented(f"export: image names by the prefix {each.name!r} cannot be looked up")
        names.append(each.name)
    if not names:
        raise InvalidArgument("export: no image is named")
    return [await services.images.get(name) for name in dict.fromkeys(names)]
