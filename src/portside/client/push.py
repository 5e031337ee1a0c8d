"""Push: an image to a registry, children before parents, so that what is there is whole at any moment."""

from __future__ import annotations

import asyncio

from portside.client.closure import MAX_DEPTH, read_document, whole_target
from portside.client.fetch import ref_of
from portside.client.flights import Flights, first_error
from portside.client.progress import DONE, EXISTS, UPLOADED, UPLOADING, WAITING, Progress, ProgressCallback, ignore
from portside.client.sources import Sink
from portside.core.images import Image
from portside.core.labels import DISTRIBUTION_SOURCE
from portside.core.services import Services
from portside.errors import InvalidArgument
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.platform import Platform
from portside.oci.reference import Reference

MAX_UPLOADS = 4
"""Blobs sent at the same time."""


async def push(
    services: Services, sink: Sink, image: Image, reference: Reference,
    *, platform: Platform | None = None, max_uploads: int = MAX_UPLOADS, progress: ProgressCallback = ignore,
) -> Descriptor:  # fmt: skip
    """Send ``image`` as ``reference``; what was sent.

    An index goes as a whole if all of it is here; otherwise, or with ``platform``, the one manifest for that (or this
    machine's) platform goes in its place. NotFound if not even that is here.
    """
    target = await whole_target(services, image, platform)
    work = _Push(services, sink, reference, max_uploads, progress)
    work.tell(target, image.name)
    await work.tree(target, target, MAX_DEPTH)
    progress(Progress(str(reference), DONE))
    return target


class _Push:
    """One push at work."""

    def __init__(
        self, services: Services, sink: Sink, reference: Reference, max_uploads: int, progress: ProgressCallback
    ) -> None:
        self._services, self._sink, self._reference, self._progress = services, sink, reference, progress
        self._slots = asyncio.Semaphore(max_uploads)
        self._sent: set[str] = set()
        self._flights = Flights()

    def tell(self, descriptor: Descriptor, parent: str) -> None:
        """Something is going to be sent that was found in the object ``parent``."""
        self._progress(Progress(ref_of(descriptor), WAITING, 0, descriptor.size, descriptor, parent))

    async def tree(self, descriptor: Descriptor, target: Descriptor, depth: int) -> None:
        """Children first, side by side; then the document itself. Only the target carries the tag."""
        async with self._flights.one(descriptor.digest):
            if descriptor.digest in self._sent:
                return
            if descriptor.media_type in INDEXES | MANIFESTS:
                await self._children(descriptor, target, depth)
            async with self._slots:
                await self._blob(descriptor, is_target=descriptor is target)
            self._sent.add(descriptor.digest)

    async def _children(self, descriptor: Descriptor, target: Descriptor, depth: int) -> None:
        if not depth:
            raise InvalidArgument(f"image {self._reference}: more than {MAX_DEPTH} indexes within each other")
        document = await read_document(self._services, descriptor)
        for child in document.children():
            self.tell(child, ref_of(descriptor))
        try:
            async with asyncio.TaskGroup() as group:
                for child in document.children():
                    group.create_task(self.tree(child, target, depth - 1))
        except BaseExceptionGroup as failed:
            error = first_error(failed)
            raise error from error.__cause__

    async def _blob(self, descriptor: Descriptor, *, is_target: bool) -> None:
        ref = ref_of(descriptor)
        self._progress(Progress(ref, UPLOADING, 0, descriptor.size))
        reference = self._reference
        if not is_target:
            reference = Reference(reference.host, reference.path, "", descriptor.digest)
        reader = await self._services.content.open(descriptor.digest)
        loop = asyncio.get_running_loop()

        def sent(offset: int) -> None:
            loop.call_soon_threadsafe(self._progress, Progress(ref, UPLOADING, offset, descriptor.size))

        try:
            result = await self._sink.push(
                reference, descriptor, reader, sources=await self._elsewhere(descriptor), progress=sent
            )
        finally:
            await reader.close()
        self._progress(Progress(ref, EXISTS if result == "exists" else UPLOADED, descriptor.size, descriptor.size))

    async def _elsewhere(self, descriptor: Descriptor) -> list[str]:
        """Other repositories of the same registry that had the blob when it came here."""
        info = await self._services.content.info(descriptor.digest)
        known = info.labels.get(DISTRIBUTION_SOURCE + self._reference.host, "").split(",")
        return [path for path in known if path and path != self._reference.path]
