"""Making one mount on this machine, for the mount manager: kernel mounts, and files through loop devices.

What a list of mounts means is decided elsewhere (``engine/mounts.py``), and so is what has to be done to a mount
before (``engine/mount_types.py``).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from portside.core.mount import Mount
from portside.core.mounts import ActiveMount
from portside.errors import FailedPrecondition, InvalidArgument, NotFound, from_oserror
from portside.linux import loop
from portside.linux import mount as linux
from portside.shim.rootfs import MAX_DATA, Plan, detached

BUSY_ATTEMPTS = 20
BUSY_PAUSE = 0.05
"""Seconds between attempts to unmount what is in use: whoever just ended may not have let go yet."""


def mount_at(mount: Mount, place: str) -> None:
    """Make ``mount`` at ``place`` (or at its target below), an existing directory.

    The option ``loop`` puts its source, a file, on a loop device that goes when the mount goes. OSError; errors of
    ours.
    """
    fields: dict[str, Any] = {"type": mount.type, "source": mount.source, "options": list(mount.options)}
    device = -1
    if "loop" in mount.options:
        fields["options"].remove("loop")
        flags = loop.LO_FLAGS_AUTOCLEAR | (loop.LO_FLAGS_READ_ONLY if "ro" in mount.options else 0)
        fields["source"], device = loop.attach(mount.source, flags)
    try:
        _mount(Plan(fields), _inside(place, mount.target))
    finally:
        if device >= 0:
            os.close(device)


def unmount_at(place: str) -> None:
    """Unmount everything that is mounted at ``place`` or below; nothing is fine.

    FailedPrecondition if it is in use and stays so for a second.
    """
    for path in reversed(mount_points(place)):
        for attempt in range(BUSY_ATTEMPTS):
            try:
                linux.umount2(path, linux.UMOUNT_NOFOLLOW)
                break
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    break
                if error.errno != errno.EBUSY:
                    raise
                if attempt == BUSY_ATTEMPTS - 1:
                    raise FailedPrecondition(f"unmount {path}: it is in use") from error
                time.sleep(BUSY_PAUSE)


def mount_points(place: str) -> list[str]:
    """What is mounted at ``place`` or below it, outer mounts first (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        paths = [_unescape(line.split(" ", 5)[4]) for line in lines]
    return [path for path in paths if path == place or path.startswith(f"{place}/")]


class LoopHandler:
    """Mounts of type ``loop``: the source, a file, becomes a device; the mount point is a link to it.

    Beside the link stands which file it was (``<place>.loop``), lest the device be another's by the time it is freed.
    Options: ``ro``, ``direct-io``.
    """

    def mount(self, mount: Mount, place: str, active: Sequence[ActiveMount]) -> ActiveMount:
        """Attach; OSError."""
        flags = loop.LO_FLAGS_READ_ONLY if "ro" in mount.options else 0
        flags |= loop.LO_FLAGS_DIRECT_IO if "direct-io" in mount.options else 0
        # Until it is written down which device it is, the device goes with the descriptor.
        flags |= loop.LO_FLAGS_AUTOCLEAR
        device, fd = loop.attach(mount.source, flags)
        try:
            owner = loop.backing(device)
            with open(f"{place}.loop", "w", encoding="utf-8") as file:
                json.dump({"device": device, "owner": owner}, file)
            os.symlink(device, place)
            loop.keep(fd)
        except BaseException:
            os.close(fd)
            self.unmount(place)
            raise
        os.close(fd)
        return ActiveMount(mount, place, time.time_ns(), {"device": device})

    def unmount(self, place: str) -> None:
        """Free the device; OSError."""
        facts = self._facts(place)
        if facts:
            loop.detach(facts["device"], tuple(facts["owner"]))
        for path in (place, f"{place}.loop"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def is_mounted(self, place: str) -> bool:
        """Whether the device is still attached to the file."""
        facts = self._facts(place)
        return facts is not None and loop.backing(facts["device"]) == tuple(facts["owner"])

    def _facts(self, place: str) -> Mapping[str, Any] | None:
        try:
            with open(f"{place}.loop", encoding="utf-8") as file:
                facts: Mapping[str, Any] = json.load(file)
                return facts if facts.get("owner") else None
        except (OSError, ValueError, AttributeError):
            return None


def naming(mount: Mount, error: OSError) -> Exception:
    """Our error for a mount that the kernel refused; what it does not know at all is not found."""
    step = f"mount {mount.type} {mount.source}"
    if error.errno == errno.ENODEV:
        return NotFound(f"{step}: the kernel has no file system of this type")
    return from_oserror(error, step)


def _mount(plan: Plan, place: str) -> None:
    fd = detached(plan)
    if fd >= 0:
        try:
            target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                linux.attach_mount(fd, target)
            finally:
                os.close(target)
        finally:
            os.close(fd)
        return
    data = ",".join(plan.own)
    if len(os.fsencode(data)) > MAX_DATA:
        raise InvalidArgument(f"mount {plan.type} {plan.source}: its options exceed a page")
    linux.mount(plan.source, place, plan.type, plan.flags, data)
    if plan.flags & linux.MS_BIND and plan.attributes:
        linux.mount("", place, "", plan.flags & ~linux.MS_REC | linux.MS_REMOUNT)


def _inside(place: str, target: str) -> str:
    if not target or target == "/":
        return place
    path = os.path.normpath(f"{place}/{target}")
    if not path.startswith(f"{place}/"):
        raise InvalidArgument(f"mount target {target!r}: it is outside of the mount")
    return path


def _unescape(path: str) -> str:
    """The kernel writes blank, tab, newline and backslash in octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
