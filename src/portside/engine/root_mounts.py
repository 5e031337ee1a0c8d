"""Root file systems that a runtime cannot mount as they are: activated for a task, and undone when it is deleted.

A snapshotter may give mounts of types that the mount manager knows (``core/mounts.py``). They are activated as
``<container>/<token>``, each attempt by itself, and held by the container's record, so that what a crash leaves goes
with the container at the latest.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

from portside.core.mount import Mount
from portside.engine.mount_types import TRANSFORMERS
from portside.engine.mounts import MountKeeper
from portside.errors import NotFound, PortsideError

log = logging.getLogger(__name__)

HOLDER = "containerd.io/gc.bref.container"


class RootMounts:
    """For all tasks of an engine."""

    def __init__(self, keeper: MountKeeper) -> None:
        self._keeper = keeper

    async def make(self, namespace: str, container_id: str, mounts: Sequence[Mount]) -> tuple[str, Sequence[Mount]]:
        """The activation's name, and what is left for the runtime to mount: ``mounts``, if they are the kernel's."""
        mounts = with_devices(mounts)
        if not self._keeper.knows(mounts):
            return "", mounts
        name = f"{container_id}/{secrets.token_hex(4)}"
        made = await self._keeper.bind(namespace).activate(name, mounts, {HOLDER: container_id})
        return name, made.system

    async def undo(self, namespace: str, container_id: str, name: str = "") -> None:
        """That activation, or all of the container, whose task is no more.

        What is still in use stays until the container goes, and is logged.
        """
        names = [name] if name else self._keeper.names(namespace, f"{container_id}/")
        for found in names:
            try:
                await self._keeper.bind(namespace).deactivate(found)
            except NotFound:
                pass
            except PortsideError as error:
                log.warning("mounts %s/%s: %s", namespace, found, error)


def with_devices(mounts: Sequence[Mount]) -> Sequence[Mount]:
    """``mounts`` with a loop device before each that has the option ``loop``, as mount(8) would make one.

    A list whose mounts refer to each other by number stays as it is.
    """
    if not any("loop" in mount.options for mount in mounts):
        return mounts
    if any(mount.type.partition("/")[0] in TRANSFORMERS for mount in mounts):
        return mounts
    expanded: list[Mount] = []
    for mount in mounts:
        if "loop" not in mount.options:
            expanded.append(mount)
            continue
        options = tuple(option for option in mount.options if option != "loop")
        expanded.append(Mount("loop", mount.source, options=("ro",) if "ro" in options else ()))
        source = f"{{{{ mount {len(expanded) - 1} }}}}"
        expanded.append(Mount(f"format/{mount.type}", source, mount.target, options))
    return expanded
