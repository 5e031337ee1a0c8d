"""Namespaces: a hard partition of all names; blobs below are shared (containerd.services.namespaces.v1.Namespaces)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class NamespaceStore(Protocol):
    """All namespaces. They come into being with their first object, or by ``create``."""

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """AlreadyExists; InvalidArgument for a name that is not allowed."""
        ...

    async def labels(self, name: str) -> Mapping[str, str]:
        """NotFound."""
        ...

    async def set_label(self, name: str, key: str, value: str) -> None:
        """An empty value removes the label; a namespace that is not there comes into being."""
        ...

    async def list(self) -> Sequence[str]:
        """Their names."""
        ...

    async def delete(self, name: str) -> None:
        """NotFound; FailedPrecondition, naming what is left, if it is not empty."""
        ...
