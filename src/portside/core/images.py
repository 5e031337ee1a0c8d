"""Images: names that point at content (containerd.services.images.v1.Images)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from portside.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Image:
    """A name, by convention a full reference, and the manifest or index it stands for."""

    name: str
    target: Descriptor
    labels: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0
    updated_ns: int = 0


class ImageStore(Protocol):
    """The images of one namespace."""

    async def get(self, name: str) -> Image:
        """NotFound."""
        ...

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Image]:
        """Those that match any filter; all without one."""
        ...

    async def create(self, image: Image) -> Image:
        """AlreadyExists; InvalidArgument for an empty name or target."""
        ...

    async def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """Change ``labels``, ``labels.<key>``, ``target``, ``annotations``; all without paths."""
        ...

    async def delete(self, name: str, sync: bool = False, target: Descriptor | None = None) -> None:
        """Remove the name; with ``sync`` what it kept alone is collected on return; NotFound if ``target`` differs."""
        ...
