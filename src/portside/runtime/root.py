"""The root file system of a container while it is being made: a descriptor, and what the operations on it share.

What belongs here: resolving paths inside, the private procfs, what has to be done late. What does not: the operations
themselves (``mounts``, ``devices``, ``masks``) and their order (``plan``). Runs in the new process, before pivot_root.
"""

from __future__ import annotations

import errno
import os

from portside.linux import mount as m
from portside.linux.fd import O_PATH
from portside.linux.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    find_in_root,
    make_directories,
    make_file,
    open_in_root,
    open_plain,
    openat2,
)
from portside.runtime.failure import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.linux.cgroups import Cgroup

_PROC_ATTRIBUTES = m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC


class Root:
    """The tree under construction; descriptors live until :meth:`close`.

    ``fd``: the root of the container's file system. ``user_namespace``: whether we are root in a user namespace only.
    ``joined``: call before anything that depends on our control group. ``cgroup``: the container's.
    """

    __slots__ = ("_proc", "_proc_attached", "cgroup", "cgroup_namespace", "fd", "joined", "late", "user_namespace")

    def __init__(
        self, user_namespace: bool, cgroup_namespace: bool, cgroup: Cgroup, joined: Callable[[], None]
    ) -> None:
        self.fd = -1
        self.user_namespace = user_namespace
        self.cgroup_namespace = cgroup_namespace
        self.cgroup = cgroup
        self.joined = joined
        self.late: list[tuple[int, int]] = []  # (mount, attributes) to set when everything inside has been made
        self._proc = -1
        self._proc_attached = False

    def open(self, path: str, flags: int = O_PATH) -> int:
        """Open ``path`` as seen inside; the caller closes it."""
        return open_in_root(self.fd, path, flags)

    def mountpoint(self, path: str, directory: bool) -> int:
        """Open a place to mount on, making it if need be; the caller closes it."""
        return make_directories(self.fd, path) if directory else make_file(self.fd, path)

    def find(self, path: str, flags: int = O_PATH) -> int:
        """As :meth:`open`, but -1 if nothing is there.

        What is below /proc is looked for from our procfs, in case somebody exchanges the directory it is mounted on.
        """
        if self._proc_attached and path.startswith("/proc/"):
            return find_in_root(self._proc, path[6:], flags)
        return find_in_root(self.fd, path, flags)

    def check_proc(self) -> None:
        """Make sure that /proc is where it was mounted (its directory can be renamed from another mount namespace)."""
        if not self._proc_attached:
            return
        place = open_plain(self.fd, "/proc")
        try:
            moved = os.fstat(place).st_dev != os.fstat(self._proc).st_dev
        finally:
            os.close(place)
        if moved:
            raise RuntimeFailure("check /proc", reason="somebody has moved it")

    def proc(self) -> int:
        """A procfs of our own, which nobody can have mounted anything over (kept open)."""
        if self._proc < 0:
            self._proc = m.new_mount("proc", [], _PROC_ATTRIBUTES, "proc")
        return self._proc

    def take_proc(self, attributes: int) -> int:
        """The same for attaching it in the container, with MOUNT_ATTR_* ``attributes``; -1 if that has been done."""
        if self._proc_attached:
            return -1
        self._proc_attached = True
        if self._proc < 0:
            self._proc = m.new_mount("proc", [], attributes, "proc")
        elif attributes != _PROC_ATTRIBUTES:
            m.set_attributes(self._proc, attributes, _PROC_ATTRIBUTES & ~attributes)
        return self._proc

    def keeps(self, fd: int) -> bool:
        """Whether ``fd`` is our own procfs, which :meth:`close` closes."""
        return fd == self._proc

    def close(self) -> None:
        """Close what is still open, except ``fd``."""
        for fd, _ in self.late:
            os.close(fd)
        self.late.clear()
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1


def write_proc(proc: int, path: str, text: str) -> None:
    """Write to a file of a procfs; never through a link or onto something that is mounted over it."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
    if not path.startswith("thread-self/"):  # that one is a link of procfs itself
        resolve |= RESOLVE_NO_SYMLINKS
    fd = openat2(proc, path, os.O_WRONLY, 0, resolve)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def set_sysctl(proc: int, values: dict[str, str]) -> None:
    """Set sysctls through ``proc``; names may be written with dots or slashes."""
    for name, value in values.items():
        path = name if "/" in name.split(".")[0] else name.replace(".", "/")
        try:
            write_proc(proc, f"sys/{path}", value)
        except OSError as error:
            raise RuntimeFailure.of("set sysctl", error, name) from error


def pivot(root: int) -> None:
    """Make ``root`` the root and let go of the old one; the working directory is the new ``/`` then."""
    old = os.open("/", O_PATH | os.O_DIRECTORY)
    try:
        os.fchdir(root)
        # The old root ends up stacked on the new one at the same place, so no directory has to be made for it.
        m.pivot_root(".", ".")
        os.fchdir(old)
    finally:
        os.close(old)
    # What is unmounted now must not be unmounted for those whom the old tree propagates to.
    m.mount("", ".", "", m.MS_SLAVE | m.MS_REC)
    m.umount2(".", m.MNT_DETACH)
    os.chdir("/")


def move_root(root: int) -> None:
    """The same for a root that cannot be pivoted (initramfs): the new root is moved over the old one."""
    for line in reversed(_mount_points()):
        # Nothing of the old root's proc and sys may stay reachable below the new one.
        if line != "/" and line.split("/")[1] in ("proc", "sys"):
            try:
                m.umount2(line, m.MNT_DETACH)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EPERM):
                    raise
    os.fchdir(root)
    m.mount(".", "/", "", m.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", "rb") as file:
        return [os.fsdecode(line.split(b" ", 5)[4]) for line in file]


def mount_id(fd: int) -> int:
    """The number of the mount that ``fd`` is on."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    return -1


def make_parent_private(path: str) -> None:
    """Make the mount that holds ``path`` private, as pivot_root asks of the parent of the new root."""
    path = os.path.realpath(path)
    fd = os.open(path, O_PATH)
    try:
        here = mount_id(fd)
    finally:
        os.close(fd)
    while path != "/":
        above = os.path.dirname(path)
        fd = os.open(above, O_PATH)
        try:
            if mount_id(fd) != here:
                break
        finally:
            os.close(fd)
        path = above
    m.mount("", path, "", m.MS_PRIVATE)
