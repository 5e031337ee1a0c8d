"""Activated mounts: what a list of mounts needs done before a runtime can mount it, kept track of by name.

Snapshotters may return mounts that the kernel does not know. A *transformer* is a prefix of a mount's type and changes
the mount before it is made (``format/``, ``mkdir/``, ``mkfs/``; chained, left first: ``format/mkdir/overlay``);
a *handler* makes a mount of a type of its own (``loop``: a file becomes a device). To *activate* a list is to make all
mounts up to the last that needs one of them; what is left for the caller to mount is its *system* part. Clients that
mount by themselves what they can are told Unimplemented where nothing needs to be activated.

Source: containerd.services.mounts.v1.Mounts; containerd docs/mounts.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from portside.core.mount import Mount


@dataclass(frozen=True, slots=True)
class ActiveMount:
    """A mount that was made: what was mounted (transformed), where, when."""

    mount: Mount
    mount_point: str
    """A directory, or for a handler whatever it made: ``loop`` makes a link to the device."""
    mounted_ns: int = 0
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Activation:
    """An activated list; it stays until it is deactivated or nothing refers to it any more.

    What keeps it: the lease it was activated under, a ``containerd.io/gc.ref.mount`` label of a container, image, blob,
    snapshot or sandbox, or a ``containerd.io/gc.bref.…`` label of its own.
    """

    name: str
    active: tuple[ActiveMount, ...] = ()
    system: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class MountHandler(Protocol):
    """Makes mounts of one type (plugins of ``io.containerd.mount-handler.v1``). Synchronous: called in threads."""

    def mount(self, mount: Mount, place: str, active: Sequence[ActiveMount]) -> ActiveMount:
        """Make it at ``place``, whose parent directory is there; ``active`` are those made before. OSError or ours."""
        ...

    def unmount(self, place: str) -> None:
        """Undo it; nothing there is fine."""
        ...

    def is_mounted(self, place: str) -> bool:
        """Whether it is still there: asked after a restart, of the process or of the machine."""
        ...


class MountManager(Protocol):
    """The activations of one namespace; a name is any text, often the path of a directory."""

    async def activate(
        self, name: str, mounts: Sequence[Mount], labels: Mapping[str, str] | None = None, temporary: bool = False
    ) -> Activation:
        """Make what must be made; with ``temporary`` all of it, and the system part is a bind of the last mount.

        AlreadyExists; Unimplemented if none of ``mounts`` needs it; InvalidArgument for options, templates and labels
        that cannot be. After an error nothing is left mounted.
        """
        ...

    async def deactivate(self, name: str) -> None:
        """Undo it in reverse. NotFound; FailedPrecondition while something is in use: it may then be tried again."""
        ...

    async def info(self, name: str) -> Activation:
        """NotFound."""
        ...

    async def update(self, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        """Change labels (``labels``, ``labels.<key>``); NotFound; InvalidArgument for another path."""
        ...

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Activation]:
        """Those that match any filter on ``name`` or ``labels``."""
        ...
