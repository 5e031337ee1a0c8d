"""Sandboxes: what containers of a pod share. A record says what is wanted, a controller makes it run.

The store knows records and nothing of what runs; a controller (``sandboxer``) is found by name and knows nothing of
records. Source: containerd.services.sandbox.v1 (Store, Controller).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.core.tasks import Metric
from portside.oci.platform import Platform

READY = "SANDBOX_READY"
"""The state of a sandbox that was started and not stopped, in the words of CRI."""
NOT_READY = "SANDBOX_NOTREADY"
"""Before and after."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox's record; ``runtime`` names what runs it, ``sandboxer`` the controller."""

    id: str
    runtime: str = ""
    runtime_options: AnyMessage | None = None
    spec: AnyMessage | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, AnyMessage] = field(default_factory=dict)
    sandboxer: str = ""
    created_ns: int = 0
    updated_ns: int = 0


class SandboxStore(Protocol):
    """The records of one namespace."""

    async def create(self, sandbox: Sandbox) -> Sandbox:
        """AlreadyExists; InvalidArgument for an id or a label that is not allowed."""
        ...

    async def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        """Change ``labels``, ``labels.<key>``, ``extensions``, ``extensions.<key>``, ``spec``, ``runtime``.

        Without a path all of them, but the runtime's name must be the old one. NotFound; InvalidArgument.
        """
        ...

    async def delete(self, id: str) -> None:
        """NotFound."""
        ...

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Sandbox]:
        """Those that match any filter on ``id`` or ``labels``."""
        ...

    async def get(self, id: str) -> Sandbox:
        """NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class SandboxInstance:
    """A sandbox that was started: ``address`` and ``version`` are where and how its task service is reached."""

    id: str
    pid: int
    created_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    version: int = 0
    spec: AnyMessage | None = None


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """How a sandbox is; one that its controller does not know has neither state nor pid, and has ended."""

    id: str
    pid: int = 0
    state: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0
    exited_ns: int = 0
    extra: AnyMessage | None = None
    address: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class SandboxExit:
    """How a sandbox ended."""

    status: int
    exited_ns: int


class SandboxController(Protocol):
    """What makes sandboxes run, for one namespace."""

    async def create(
        self, sandbox: Sandbox, *, rootfs: Sequence[Mount] = (), options: AnyMessage | None = None,
        netns_path: str = "", annotations: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Make it up to the point before start. AlreadyExists."""
        ...

    async def start(self, id: str) -> SandboxInstance:
        """Let it run. NotFound; after a failure the sandbox is gone."""
        ...

    async def platform(self, id: str) -> Platform:
        """What containers in it are for. NotFound."""
        ...

    async def stop(self, id: str, timeout: float = 0.0) -> None:
        """End what runs in it, by force after ``timeout`` seconds; one that is not there is fine."""
        ...

    async def wait(self, id: str) -> SandboxExit:
        """Returns when it has ended. NotFound."""
        ...

    async def status(self, id: str, verbose: bool = False) -> SandboxStatus:
        """How it is; a missing one is answered, see ``SandboxStatus``."""
        ...

    async def shutdown(self, id: str) -> None:
        """Remove all of it. NotFound."""
        ...

    async def metrics(self, id: str) -> Metric:
        """What it uses. NotFound."""
        ...

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """Hear that the record has changed."""
        ...


ControllerOf: TypeAlias = Callable[[str], SandboxController]
"""A controller for a namespace: what a plugin of ``io.containerd.sandbox.controller.v1`` is."""
