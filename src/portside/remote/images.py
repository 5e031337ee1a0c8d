"""containerd.services.images.v1.Images as an ``ImageStore``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.convert.basics import descriptor_to_pb
from portside.convert.records import image_from_pb, image_to_pb
from portside.core.images import Image
from portside.oci.descriptor import Descriptor
from portside.remote.caller import TIMEOUT, Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.images.v1 import images_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2, field_mask_pb2

SERVICE = "containerd.services.images.v1.Images"


class RemoteImages:
    """The images of one namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def get(self, name: str) -> Image:
        """One by name."""
        response = await self._caller.call("Get", pb.GetImageRequest(name=name), pb.GetImageResponse)
        return image_from_pb(response.image)

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Image]:
        """Those that match."""
        response = await self._caller.call("List", pb.ListImagesRequest(filters=filters), pb.ListImagesResponse)
        return [image_from_pb(image) for image in response.images]

    async def create(self, image: Image) -> Image:
        """Make a name."""
        request = pb.CreateImageRequest(image=image_to_pb(image))
        return image_from_pb((await self._caller.call("Create", request, pb.CreateImageResponse)).image)

    async def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """Change what the paths name."""
        mask = field_mask_pb2.FieldMask(paths=fieldpaths)
        request = pb.UpdateImageRequest(image=image_to_pb(image), update_mask=mask)
        return image_from_pb((await self._caller.call("Update", request, pb.UpdateImageResponse)).image)

    async def delete(self, name: str, sync: bool = False, target: Descriptor | None = None) -> None:
        """Remove a name."""
        wanted = None if target is None else descriptor_to_pb(target)
        request = pb.DeleteImageRequest(name=name, sync=sync, target=wanted)
        await self._caller.call("Delete", request, empty_pb2.Empty, None if sync else TIMEOUT)
