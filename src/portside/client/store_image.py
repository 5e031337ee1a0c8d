"""The last step of every way an image comes in: its name."""

from __future__ import annotations

from collections.abc import Mapping

from portside.core.images import Image
from portside.core.services import Services
from portside.errors import AlreadyExists, NotFound
from portside.oci.descriptor import Descriptor


async def store_image(
    services: Services, name: str, target: Descriptor, labels: Mapping[str, str] | None = None
) -> Image:
    """Point ``name`` at ``target``, whatever it pointed at before; labels that are there are kept and ours added."""
    while True:
        try:
            return await services.images.create(Image(name, target, dict(labels or {})))
        except AlreadyExists:
            pass
        paths = ["target", *(f"labels.{key}" for key in labels or ())]
        try:
            return await services.images.update(Image(name, target, dict(labels or {})), paths)
        except NotFound:
            # Removed between the two calls: make it after all.
            continue
