"""The container's root file system: the list of mounts that came with Create, made and taken away again.

One mount is made detached (fsmount(2), open_tree(2)) and held as a descriptor, which the runtime attaches in the
container's mount namespace: the host's mount table never shows it, nothing can propagate it anywhere, and a shim that
is killed leaves none behind. Several mounts, kernels without these calls, options that do not fit (fsconfig(2) takes
255 bytes) and external runtimes, which want a path, get ``rootfs`` in the bundle by mount(2) instead.

What belongs here: meaning of mount options, and which way to take. The list itself is the snapshotter's.
"""

from __future__ import annotations

import errno
import os

from portside.errors import InvalidArgument, from_oserror
from portside.linux import mount as linux
from portside.shim.loop import close_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from portside.shim.loop import Loop

MAX_STRING: Final = 255
"""Bytes of one value that fsconfig(2) takes."""
MAX_DATA: Final = 4095
"""Bytes of options that mount(2) takes: a page."""
_NO_NEW_MOUNT: Final = (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENODEV, errno.EOPNOTSUPP)
"""What a kernel answers that cannot do it the new way; mount(2) then works, or says what is really wrong."""

# Option: (flag of mount(2), attribute of fsmount(2)); mount(8), "filesystem-independent mount options".
_FLAGS: Final = {
    "ro": (linux.MS_RDONLY, linux.MOUNT_ATTR_RDONLY),
    "nosuid": (linux.MS_NOSUID, linux.MOUNT_ATTR_NOSUID),
    "nodev": (linux.MS_NODEV, linux.MOUNT_ATTR_NODEV),
    "noexec": (linux.MS_NOEXEC, linux.MOUNT_ATTR_NOEXEC),
    "noatime": (linux.MS_NOATIME, linux.MOUNT_ATTR_NOATIME),
    "nodiratime": (linux.MS_NODIRATIME, linux.MOUNT_ATTR_NODIRATIME),
    "relatime": (linux.MS_RELATIME, 0),
    "strictatime": (linux.MS_STRICTATIME, linux.MOUNT_ATTR_STRICTATIME),
    "sync": (linux.MS_SYNCHRONOUS, 0),
    "dirsync": (linux.MS_DIRSYNC, 0),
    "bind": (linux.MS_BIND, 0),
    "rbind": (linux.MS_BIND | linux.MS_REC, 0),
}
_DEFAULTS: Final = frozenset(("rw", "suid", "dev", "exec", "atime", "diratime", "async", "defaults", "remount"))


class Plan:
    """A mount's options sorted: flags for mount(2), attributes for fsmount(2), and the file system's own."""

    __slots__ = ("attributes", "flags", "own", "source", "target", "type")

    def __init__(self, mount: Mapping[str, Any]) -> None:
        self.type: str = mount["type"]
        self.source: str = mount["source"]
        self.target: str = mount.get("target", "")
        self.flags = self.attributes = 0
        self.own: list[str] = []
        for option in mount["options"]:
            if option in _FLAGS:
                flag, attribute = _FLAGS[option]
                self.flags |= flag
                self.attributes |= attribute
            elif option not in _DEFAULTS:
                self.own.append(option)
        if self.type in ("bind", "rbind"):
            self.flags |= linux.MS_BIND | (linux.MS_REC if self.type == "rbind" else 0)
        if any("\0" in text for text in (self.type, self.source, self.target, *self.own)):
            raise InvalidArgument(f"rootfs mount of type {self.type!r}: an option with a NUL byte")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The file system's own options as (name, value)."""
        return [(name, value) for name, _, value in (option.partition("=") for option in self.own)]


class Rootfs:
    """Nothing at first; after ``mount`` either ``fd`` or ``path``, or neither if the list was empty."""

    __slots__ = ("_mounted", "_slow", "fd", "path")

    def __init__(self) -> None:
        self.fd = -1
        """A detached mount, owned here."""
        self.path = ""
        """Where it is mounted for all to see."""
        self._mounted: list[str] = []
        self._slow = False

    def mount(self, mounts: Sequence[Mapping[str, Any]], bundle: str, *, visible: bool) -> None:
        """Make the mounts; after a failure none is left. Errors name the mount's type and source."""
        plans = [Plan(mount) for mount in mounts]
        if not plans:
            return
        if not visible and len(plans) == 1 and not plans[0].target:
            self.fd = detached(plans[0])
            self._slow = plans[0].source.startswith("/dev/")
        if self.fd < 0:
            self._mount_visibly(plans, f"{bundle}/rootfs")

    def hand_over(self) -> tuple[dict[str, Any], list[int]]:
        """What ``take_over`` takes in another process."""
        facts = {"mounted": self._mounted, "path": self.path, "slow": self._slow}
        return facts, [self.fd] if self.fd >= 0 else []

    def take_over(self, facts: Mapping[str, Any], fds: list[int]) -> None:
        """What ``mount`` made in another process is ours now, the descriptor too."""
        self._mounted, self.path, self._slow = list(facts["mounted"]), facts["path"], facts["slow"]
        self.fd = fds[0] if fds else -1

    def unmount(self) -> None:
        """Take it away; what is busy is detached, to go when its last user goes."""
        fd, self.fd = self.fd, -1
        close_fd(fd)
        while self._mounted:
            target = self._mounted.pop()
            try:
                linux.umount2(target, linux.UMOUNT_NOFOLLOW)
            except OSError:
                try:
                    linux.umount2(target, linux.UMOUNT_NOFOLLOW | linux.MNT_DETACH)
                except OSError:
                    pass  # Somebody else has unmounted it.
        self.path = ""

    def unmount_soon(self, loop: Loop) -> None:
        """Take it away after the answers of this round: letting go of an overlay may wait for its disk.

        What is on a device or visible goes at once, since whoever hears of the end may want it back.
        """
        if self._slow or self._mounted:
            self.unmount()
        else:
            loop.soon(self.unmount)

    def _mount_visibly(self, plans: Sequence[Plan], root: str) -> None:
        try:
            os.makedirs(root, 0o711, exist_ok=True)
            for plan in plans:
                target = _inside(root, plan.target)
                try:
                    _mount(plan, target)
                except OSError as error:
                    raise from_oserror(error, f"mount {plan.type} {plan.source} as root file system") from error
                self._mounted.append(target)
        except BaseException:
            self.unmount()
            raise
        self.path = root


def detached(plan: Plan) -> int:
    """A descriptor for the mount, the caller's; -1 if this kernel or these options need mount(2)."""
    try:
        if plan.flags & linux.MS_BIND:
            return _clone(plan)
        options = plan.pairs
        if plan.type == "overlay":
            options = overlay_options(options)
        if any(len(os.fsencode(value)) > MAX_STRING for _, value in options):
            return -1
        if plan.flags & linux.MS_RDONLY:
            options.append(("ro", ""))
        return linux.new_mount(plan.type, options, plan.attributes, plan.source)
    except OSError as error:
        if error.errno in _NO_NEW_MOUNT:
            return -1
        raise from_oserror(error, f"mount {plan.type} {plan.source} as root file system") from error


def overlay_options(options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lower directories that are too long together, one by one (``lowerdir+``, since Linux 6.8); else as they are."""
    out: list[tuple[str, str]] = []
    for name, value in options:
        if name != "lowerdir" or len(os.fsencode(value)) <= MAX_STRING or "\\" in value or "::" in value:
            out.append((name, value))
        else:
            out += [("lowerdir+", layer) for layer in value.split(":")]
    return out


def _clone(plan: Plan) -> int:
    source = os.open(plan.source, os.O_PATH | os.O_CLOEXEC)
    try:
        recursive = bool(plan.flags & linux.MS_REC)
        fd = linux.clone_mount(source, recursive=recursive)
    finally:
        os.close(source)
    try:
        if plan.attributes:
            linux.set_attributes(fd, plan.attributes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount(plan: Plan, target: str) -> None:
    data = ",".join(plan.own)
    if plan.flags & linux.MS_BIND:
        linux.mount(plan.source, target, "", plan.flags & (linux.MS_BIND | linux.MS_REC))
        rest = plan.flags & ~(linux.MS_BIND | linux.MS_REC)
        if rest:
            linux.mount("", target, "", linux.MS_BIND | linux.MS_REMOUNT | rest)
    elif len(os.fsencode(data)) <= MAX_DATA or plan.type != "overlay":
        linux.mount(plan.source, target, plan.type, plan.flags, data)
    else:
        _mount_from_within(plan, target)


def _mount_from_within(plan: Plan, target: str) -> None:
    """Many layers: paths relative to what they have in common fit into a page where absolute ones do not."""
    options = dict(plan.pairs)
    lowers = options["lowerdir"].split(":")
    common = os.path.commonpath(lowers)
    options["lowerdir"] = ":".join(os.path.relpath(lower, common) for lower in lowers)
    data = ",".join(f"{name}={value}" if value else name for name, value in options.items())
    if len(os.fsencode(data)) > MAX_DATA:
        raise InvalidArgument(f"mount overlay of {len(lowers)} layers as root file system: their paths exceed a page")
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(common)
        linux.mount(plan.source, target, plan.type, plan.flags, data)
    finally:
        os.fchdir(here)
        os.close(here)


def _inside(root: str, target: str) -> str:
    """``target`` below ``root``; it comes from the snapshotter, so names that climb are a mistake, not an attack."""
    if not target or target == "/":
        return root
    path = os.path.normpath(f"{root}/{target}")
    if not path.startswith(f"{root}/"):
        raise InvalidArgument(f"rootfs mount target {target!r} is outside the root")
    return path
