"""containerd.services.images.v1.Images."""

from __future__ import annotations

from portside.api.context import bound, paths
from portside.convert.basics import descriptor_from_pb
from portside.convert.records import image_from_pb, image_to_pb
from portside.core.services import Backend
from portside.wire.grpc.service import Call, inline
from portside.wire.pb.containerd.services.images.v1 import images_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Images"]


class ImagesService:
    """Names of images."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @inline
    async def get(self, request: pb.GetImageRequest, call: Call) -> pb.GetImageResponse:
        """One by name."""
        return pb.GetImageResponse(image=image_to_pb(await bound(self._backend, call).images.get(request.name)))

    @inline
    async def list(self, request: pb.ListImagesRequest, call: Call) -> pb.ListImagesResponse:
        """Those that match any filter."""
        images = await bound(self._backend, call).images.list(tuple(request.filters))
        return pb.ListImagesResponse(images=[image_to_pb(image) for image in images])

    async def create(self, request: pb.CreateImageRequest, call: Call) -> pb.CreateImageResponse:
        """Give a name to content."""
        image = await bound(self._backend, call).images.create(image_from_pb(request.image))
        return pb.CreateImageResponse(image=image_to_pb(image))

    async def update(self, request: pb.UpdateImageRequest, call: Call) -> pb.UpdateImageResponse:
        """Change what the mask names."""
        store = bound(self._backend, call).images
        image = await store.update(image_from_pb(request.image), paths(request.update_mask))
        return pb.UpdateImageResponse(image=image_to_pb(image))

    async def delete(self, request: pb.DeleteImageRequest, call: Call) -> empty_pb2.Empty:
        """Remove a name; with ``sync`` what it kept alone is gone on return."""
        target = descriptor_from_pb(request.target) if request.HasField("target") else None
        await bound(self._backend, call).images.delete(request.name, request.sync, target)
        return empty_pb2.Empty()
