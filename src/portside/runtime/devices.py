"""What stands in /dev: the devices that every container has, those of the spec, the links beside them, the console.

Source: runtime-spec config-linux.md, *Default Devices*; config.md, *Dev symbolic links*.
"""

from __future__ import annotations

import errno
import os
import stat

from portside.linux import mount as m
from portside.linux import terminal
from portside.linux.fd import O_PATH
from portside.linux.openat2 import open_in_root
from portside.runtime.failure import RuntimeFailure
from portside.runtime.mounts import Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.runtime.root import Root
    from portside.runtime.spec import Device

_AT_FDCWD = -100
# name, major, minor
_DEFAULTS = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_TYPE_BITS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class DeviceNode(Operation):
    """One device; in a user namespace, where none can be made, the host's by a bind mount."""

    __slots__ = ("device", "mode", "owner", "path")

    def __init__(self, path: str, mode: int, device: int, owner: tuple[int, int] = (0, 0)) -> None:
        self.path = path
        self.mode = mode
        self.device = device
        self.owner = owner

    @classmethod
    def of(cls, device: Device) -> DeviceNode:
        """For one of ``linux.devices``."""
        number = os.makedev(device.major, device.minor)
        return cls(device.path, _TYPE_BITS[device.kind] | device.mode, number, (device.uid, device.gid))

    def describe(self) -> str:
        """See ``Operation``."""
        return f"make device {self.path}"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        if root.user_namespace and not stat.S_ISFIFO(self.mode):
            self._bind(root)
            return
        directory, name = os.path.split(self.path)
        parent = root.mountpoint(directory, True)
        try:
            self.make(parent, name)
        finally:
            os.close(parent)

    def make(self, parent: int, name: str) -> None:
        """Make it as ``name`` in the directory ``parent``."""
        try:
            os.mknod(name, self.mode, self.device, dir_fd=parent)
        except FileExistsError:
            return  # The image's own; whoever relies on what it is looks at it (masks).
        except PermissionError:
            raise RuntimeFailure(self.describe(), "", errno.EPERM) from None
        if self.owner != (0, 0):
            os.chown(name, *self.owner, dir_fd=parent, follow_symlinks=False)

    def _bind(self, root: Root) -> None:
        fd = m.clone_mount(_AT_FDCWD, self.path)
        try:
            found = os.fstat(fd)
            if stat.S_IFMT(found.st_mode) != stat.S_IFMT(self.mode) or found.st_rdev != self.device:
                raise RuntimeFailure(self.describe(), reason="the host's file of this name is another device")
            place = root.mountpoint(self.path, False)
            try:
                m.attach_mount(fd, place)
            finally:
                os.close(place)
        finally:
            os.close(fd)


class DefaultNodes(Operation):
    """The devices that every container has, except ``others``, which the spec has itself."""

    __slots__ = ("others",)

    def __init__(self, others: frozenset[str]) -> None:
        self.others = others

    def nodes(self) -> list[DeviceNode]:
        """One by one."""
        return [
            DeviceNode(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
            for name, major, minor in _DEFAULTS
            if f"/dev/{name}" not in self.others
        ]

    def describe(self) -> str:
        """See ``Operation``."""
        return "make the default devices"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        if root.user_namespace:
            for node in self.nodes():
                node.run(root)
            return
        directory = root.mountpoint("/dev", True)
        try:
            for node in self.nodes():
                node.make(directory, node.path[5:])
        finally:
            os.close(directory)


class DevLinks(Operation):
    """The symbolic links in /dev, and ``ptmx``."""

    __slots__ = ()

    def describe(self) -> str:
        """See ``Operation``."""
        return "make links in /dev"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        directory = root.mountpoint("/dev", True)
        try:
            for name, target in _LINKS:
                _link(directory, name, target)
            if os.path.exists("/proc/kcore"):
                _link(directory, "core", "/proc/kcore")
            # The image's own would make terminals in somebody else's devpts.
            try:
                os.unlink("ptmx", dir_fd=directory)
            except FileNotFoundError:
                pass
            os.symlink("pts/ptmx", "ptmx", dir_fd=directory)
        finally:
            os.close(directory)


def _link(directory: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        if os.path.islink(f"/proc/self/fd/{directory}/{name}"):
            return
        raise


def open_console(root: int, width: int, height: int) -> tuple[int, int]:
    """A new terminal of the devpts below ``root``: (master, terminal); the caller closes both."""
    directory = open_in_root(root, "/dev/pts", O_PATH | os.O_DIRECTORY)
    try:
        master = terminal.open_master("ptmx", dir_fd=directory)
    finally:
        os.close(directory)
    try:
        peer = terminal.open_peer(master)
    except BaseException:
        os.close(master)
        raise
    if width or height:
        terminal.resize(master, width, height)
    return master, peer


def mount_console(root: Root, peer: int) -> None:
    """Show the terminal ``peer`` as /dev/console: the open descriptor itself is mounted, so no name is looked up."""
    directory = root.mountpoint("/dev", True)
    try:
        try:
            os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory))
        except FileExistsError:
            pass  # what it is, is seen below
        place = os.open("console", O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        if stat.S_ISLNK(os.fstat(place).st_mode):
            raise RuntimeFailure("mount the console", reason="/dev/console is a symbolic link")
        fd = m.clone_mount(peer)
        try:
            m.attach_mount(fd, place)
        finally:
            os.close(fd)
    finally:
        os.close(place)


def default_rules() -> list[dict[str, Any]]:
    """Device rules that a container needs besides its own: making nodes, the devices above, terminals."""
    return [
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
        *(
            {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
            for _, major, minor in (*_DEFAULTS, ("ptmx", 5, 2))
        ),
        {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    ]
