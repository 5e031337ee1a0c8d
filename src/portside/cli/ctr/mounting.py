"""Mounts of a snapshot where people see them: ``images mount``, and for a moment to change owners."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from portside.core.mount import Mount
from portside.errors import InvalidArgument, from_oserror
from portside.linux import mount as linux
from portside.shim.rootfs import Plan


def mount_all(mounts: Sequence[Mount], target: str) -> None:
    """Mount at ``target``, an existing directory; after a failure nothing stays mounted there."""
    plans = [(_plan(mount), _place(mount, target)) for mount in mounts]
    done: list[str] = []
    try:
        for plan, place in plans:
            linux.mount(plan.source, place, plan.type, plan.flags, ",".join(plan.own))
            done.append(place)
            if plan.flags & linux.MS_BIND and plan.flags & linux.MS_RDONLY:
                linux.mount("", place, "", plan.flags | linux.MS_REMOUNT)
    except OSError as error:
        while done:
            linux.umount2(done.pop(), linux.UMOUNT_NOFOLLOW | linux.MNT_DETACH)
        raise from_oserror(error, f"mount {plan.type} {plan.source} at {place}") from error


def _plan(mount: Mount) -> Plan:
    return Plan({"type": mount.type, "source": mount.source, "target": mount.target, "options": mount.options})


def _place(mount: Mount, target: str) -> str:
    """Where it goes; InvalidArgument if that is not at ``target`` or below."""
    root = os.path.normpath(target)
    place = os.path.normpath(os.path.join(root, mount.target.lstrip("/")))
    if place != root and not place.startswith(f"{root}/"):
        raise InvalidArgument(f"mount {mount.type} {mount.source}: its target {mount.target!r} leads outside")
    return place


def unmount_all(target: str) -> None:
    """Take away all that is mounted at ``target``; nothing is fine. NotFound if there is no such path."""
    import errno

    while True:
        try:
            linux.umount2(target, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            raise from_oserror(error, f"unmount {target}") from error


@contextmanager
def temporarily(mounts: Sequence[Mount]) -> Iterator[str]:
    """A directory of our own with ``mounts``, while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="portside-ctr-") as directory:
        mount_all(mounts, directory)
        try:
            yield directory
        finally:
            unmount_all(directory)
