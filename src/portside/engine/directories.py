"""Mounts as descriptors of directories, so that layers can be written and compared without mounting where that is
possible.

Overlayfs and bind mounts are lists of directories: they are opened as they are. Anything else (a block device, an
image file) is mounted detached (fsmount(2)): nobody else sees it, and it goes when it is closed. What does not belong
here: what is done with the directories.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from portside.core.mount import Mount, split_lowers
from portside.core.work import in_thread
from portside.errors import FailedPrecondition, InvalidArgument, Unimplemented, from_oserror
from portside.layers.unpack import Whiteouts
from portside.shim.rootfs import Plan, detached

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Target:
    """Where a layer goes: a directory, the directories below it (top first), and what becomes of whiteouts."""

    path: str
    lowers: tuple[str, ...] = ()
    whiteouts: str = Whiteouts.DELETE


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A ``Target`` as descriptors."""

    root: int
    lowers: tuple[int, ...]
    whiteouts: str


def target_of(mounts: Sequence[Mount]) -> Target | None:
    """The directory behind ``mounts``; None if they must be mounted. FailedPrecondition if they are read-only."""
    mount = _only(mounts)
    if _is_bind(mount):
        if "ro" in mount.options:
            raise FailedPrecondition(f"unpack onto {mount.source}: the mount is read-only")
        return Target(mount.source)
    if "ro" in mount.options:
        raise FailedPrecondition(f"unpack onto a mount of type {mount.type!r}: it is read-only")
    if mount.type != "overlay":
        return None
    values = overlay_values(mount)
    if "upperdir" not in values:
        raise FailedPrecondition("unpack onto an overlay mount without an upper directory: it is read-only")
    whiteouts = Whiteouts.USER_OVERLAY if "userxattr" in mount.options else Whiteouts.OVERLAY
    return Target(values["upperdir"], split_lowers(values.get("lowerdir", "")), whiteouts)


def stack_of(mounts: Sequence[Mount]) -> tuple[str, ...] | None:
    """The directories that ``mounts`` show, top first; none for no mounts, None if they must be mounted."""
    if not mounts:
        return ()
    mount = _only(mounts)
    if _is_bind(mount):
        return (mount.source,)
    if mount.type != "overlay":
        return None
    values = overlay_values(mount)
    upper = (values["upperdir"],) if "upperdir" in values else ()
    return (*upper, *split_lowers(values.get("lowerdir", "")))


def _only(mounts: Sequence[Mount]) -> Mount:
    if not mounts:
        raise InvalidArgument("no mounts")
    if len(mounts) != 1 or mounts[0].target:
        raise Unimplemented(f"{len(mounts)} mounts on top of each other: want one, without a target of its own")
    return mounts[0]


def _is_bind(mount: Mount) -> bool:
    return mount.type in ("bind", "rbind") or "bind" in mount.options or "rbind" in mount.options


def overlay_values(mount: Mount) -> dict[str, str]:
    """The options of the form ``name=value``."""
    return dict(option.split("=", 1) for option in mount.options if "=" in option)


@contextlib.asynccontextmanager
async def open_target(mounts: Sequence[Mount]) -> AsyncIterator[OpenTarget]:
    """``target_of``, open, and mounted if that is necessary."""
    target = target_of(mounts)
    fds = await in_thread(_open_all, (target.path, *target.lowers) if target is not None else None, mounts)
    try:
        yield OpenTarget(fds[0], tuple(fds[1:]), target.whiteouts if target is not None else Whiteouts.DELETE)
    finally:
        await in_thread(_close_all, fds)


@contextlib.asynccontextmanager
async def open_stack(mounts: Sequence[Mount]) -> AsyncIterator[list[int]]:
    """``stack_of``, open, and mounted if that is necessary."""
    fds = await in_thread(_open_all, stack_of(mounts), mounts)
    try:
        yield fds
    finally:
        await in_thread(_close_all, fds)


def _open_all(paths: Sequence[str] | None, mounts: Sequence[Mount]) -> list[int]:
    if paths is None:
        return [_mounted(mounts[0])]
    fds: list[int] = []
    try:
        for path in paths:
            fds.append(os.open(path, _DIRECTORY))
        return fds
    except OSError as error:
        _close_all(fds)
        raise from_oserror(error, f"open {error.filename}") from error


def _mounted(mount: Mount) -> int:
    """The root of a detached mount, which lives as long as this descriptor and what is opened below it."""
    plan = Plan({"type": mount.type, "source": mount.source, "options": mount.options})
    fd = detached(plan)
    if fd < 0:
        raise Unimplemented(f"a mount of type {mount.type!r} needs Linux 5.2 for this")
    try:
        return os.open(".", _DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def _close_all(fds: Sequence[int]) -> None:
    """Closing the last of a mount unmounts it, which may wait for a disk."""
    for fd in fds:
        os.close(fd)
