"""Containers: records of what is to run (containerd.services.containers.v1.Containers). What runs is a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from portside.core.anymessage import AnyMessage

RUNTIMES = ("io.containerd.runc.v2", "io.containerd.portside.v2")
"""Names of runtimes that stand for our own shim."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container's record; ``spec`` is a runtime-spec document, kept as the bytes that came."""

    id: str
    runtime: str
    spec: AnyMessage | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    runtime_options: AnyMessage | None = None
    snapshotter: str = ""
    snapshot_key: str = ""
    created_ns: int = 0
    updated_ns: int = 0
    extensions: Mapping[str, AnyMessage] = field(default_factory=dict)
    sandbox_id: str = ""


class ContainerStore(Protocol):
    """The containers of one namespace."""

    async def get(self, id: str) -> Container:
        """NotFound."""
        ...

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Those that match any filter; all without one."""
        ...

    async def create(self, container: Container) -> Container:
        """AlreadyExists; InvalidArgument for an id or a label that is not allowed."""
        ...

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """Change ``labels``, ``labels.<key>``, ``spec``, ``extensions``, ``extensions.<key>``, ``image`` and so on.

        Runtime, snapshotter and sandbox never change (InvalidArgument).
        """
        ...

    async def delete(self, id: str) -> None:
        """Remove the record; NotFound. Whether a task may still run is for the caller to ask."""
        ...
