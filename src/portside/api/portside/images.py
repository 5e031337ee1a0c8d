"""The verbs of images in our own service (``portside.services.engine.v1.Engine``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from portside.api.context import bound
from portside.api.portside.registries import registry_for
from portside.api.portside.streaming import with_progress
from portside.client.images import list_images, remove_image
from portside.client.lookup import find_image
from portside.client.progress import ProgressCallback
from portside.client.pull import PullOptions, pull
from portside.client.push import push
from portside.core.images import Image
from portside.core.services import Backend
from portside.oci.descriptor import Descriptor
from portside.oci.platform import Platform
from portside.oci.reference import Reference
from portside.registry.client import Registry
from portside.wire.grpc.service import Call
from portside.wire.pb.portside.services.engine.v1 import engine_pb2 as pb


class ImageVerbs:
    """Thin: parse, call a verb, convert."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def pull(self, request: pb.PullRequest, call: Call) -> AsyncIterator[pb.RunEvent]:
        """Fetch and unpack."""
        services = bound(self._backend, call)
        reference = Reference.parse_familiar(request.image)
        options = PullOptions(platforms=_platforms(request), snapshotter=request.snapshotter)
        async with _registry(request) as registry:

            async def verb(progress: ProgressCallback) -> Image:
                return await pull(services, registry, reference, options, progress=progress)

            async for event in with_progress(verb, lambda image: _done(image.name, image.target)):
                yield event

    async def push(self, request: pb.PullRequest, call: Call) -> AsyncIterator[pb.RunEvent]:
        """Send to the registry that the name says."""
        services = bound(self._backend, call)
        image = await find_image(services, request.image)
        reference = Reference.parse(image.name)
        platform = next(iter(_platforms(request)), None)
        async with _registry(request) as registry:

            async def verb(progress: ProgressCallback) -> Descriptor:
                return await push(services, registry, image, reference, platform=platform, progress=progress)

            async for event in with_progress(verb, lambda sent: _done(image.name, sent)):
                yield event

    async def images(self, request: pb.ImagesRequest, call: Call) -> pb.ImagesResponse:
        """What there is; with a name, what that stands for."""
        services = bound(self._backend, call)
        filters = [f'name=="{(await find_image(services, request.name)).name}"'] if request.name else []
        return pb.ImagesResponse(
            images=[
                pb.ImageSummary(
                    name=row.name, digest=row.digest, media_type=row.media_type, size=row.size,
                    created_ns=row.created_ns, id=row.id,
                )
                for row in await list_images(services, filters)
            ]
        )  # fmt: skip

    async def remove_image(self, request: pb.RemoveImageRequest, call: Call) -> pb.RemoveImageResponse:
        """A name, and what only it kept."""
        removed = await remove_image(bound(self._backend, call), request.image, force=request.force)
        return pb.RemoveImageResponse(removed=removed)


def _registry(request: pb.PullRequest) -> AbstractAsyncContextManager[Registry]:
    return registry_for(plain_http=request.plain_http, user=request.user, password=request.password)


def _platforms(request: pb.PullRequest) -> tuple[Platform, ...]:
    return (Platform.parse(request.platform),) if request.platform else ()


def _done(name: str, target: Descriptor) -> pb.RunEvent:
    return pb.RunEvent(done=pb.Done(name=name, digest=target.digest, size=target.size))
