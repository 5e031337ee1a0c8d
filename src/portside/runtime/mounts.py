"""Mounts as operations: each describes itself and does itself on a ``Root``.

What belongs here: how one entry of ``mounts`` of a spec comes to be in the tree. What does not: reading the spec
(``spec``, ``options``), the order (``plan``). Nothing here follows a path of the container outside of it: a place is
opened by ``openat2`` inside the root, and the mount goes to that descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from portside.linux import mount as m
from portside.linux.cgroups import layout
from portside.linux.fd import O_PATH
from portside.linux.openat2 import open_plain
from portside.runtime.copyup import copy_up
from portside.runtime.failure import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.runtime.options import Options
    from portside.runtime.root import Root
    from portside.runtime.spec import IdMap

_AT_FDCWD = -100
_PROC_ROOT_INODE = 1
_ALL_ATTRIBUTES = (
    m.MOUNT_ATTR_RDONLY
    | m.MOUNT_ATTR_NOSUID
    | m.MOUNT_ATTR_NODEV
    | m.MOUNT_ATTR_NOEXEC
    | m.MOUNT_ATTR_NODIRATIME
    | m.MOUNT_ATTR_NOSYMFOLLOW
)
# What may be laid over a file or directory of /proc: things that only show the container another view.
_ALLOWED_IN_PROC = (
    "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
    "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
)  # fmt: skip


class Operation:
    """One change to the tree. ``apply`` raises ``RuntimeFailure`` with its own description as the step."""

    __slots__ = ()

    def describe(self) -> str:
        """The operation in a few words, for errors and for printing a plan."""
        raise NotImplementedError

    def run(self, root: Root) -> None:
        """Do it; errors of the kernel may pass."""
        raise NotImplementedError

    def apply(self, root: Root) -> None:
        """Do it."""
        try:
            self.run(root)
        except OSError as error:
            raise RuntimeFailure.of(self.describe(), error) from error


class FilesystemMount(Operation):
    """A new file system: proc, sysfs, tmpfs, devpts, mqueue, and whatever else the kernel knows."""

    __slots__ = ("destination", "fstype", "options", "source")

    def __init__(self, destination: str, fstype: str, source: str, options: Options) -> None:
        self.destination = destination
        self.fstype = fstype
        self.source = source
        self.options = options

    def describe(self) -> str:
        """See ``Operation``."""
        return f"mount {self.fstype} at {self.destination}"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        place, existed = self._place(root)
        try:
            self._mount(root, place, existed)
        finally:
            os.close(place)

    def _place(self, root: Root) -> tuple[int, bool]:
        if self.fstype in ("proc", "sysfs"):
            return _ordinary_directory(root, self.destination), True
        place, existed = root.find(self.destination, O_PATH | os.O_DIRECTORY), True
        if place < 0:
            place, existed = root.mountpoint(self.destination, True), False
        try:
            refuse_in_proc(root, place, self.destination, is_proc=False)
        except BaseException:
            os.close(place)
            raise
        return place, existed

    def _mount(self, root: Root, place: int, existed: bool) -> None:
        options = self.options
        attributes = options.attr_set
        # Things are still to be made inside these, so they become read-only at the end.
        late = bool(attributes & m.MOUNT_ATTR_RDONLY) and (self.fstype == "tmpfs" or self.destination == "/dev")
        if late:
            attributes &= ~m.MOUNT_ATTR_RDONLY
        fd = self._new(root, place, existed, attributes)
        try:
            if options.copy_up and existed:
                copy_up(place, fd)
            m.attach_mount(fd, place)
            for flag, recursive in options.propagation:
                m.set_attributes(fd, propagation=flag, recursive=recursive)
        except BaseException:
            if not root.keeps(fd):
                os.close(fd)
            raise
        if late:
            root.late.append((fd, m.MOUNT_ATTR_RDONLY))
        elif not root.keeps(fd):
            os.close(fd)

    def _new(self, root: Root, place: int, existed: bool, attributes: int) -> int:
        data = self.options.data
        if self.fstype == "proc" and self.destination == "/proc" and not data:
            fd = root.take_proc(attributes)
            if fd >= 0:
                return fd
        if self.fstype == "tmpfs" and existed and not any(name == "mode" for name, _ in data):
            # What is covered lends its mode, as if the tmpfs had always been there.
            data = [*data, ("mode", f"{stat.S_IMODE(os.fstat(place).st_mode):04o}")]
        try:
            return m.new_mount(self.fstype, data, attributes, self.source)
        except PermissionError:
            if self.fstype != "sysfs" or not root.user_namespace:
                raise
            # The network namespace belongs to somebody else: then the host's sysfs, which shows the same.
            fd = m.clone_mount(_AT_FDCWD, "/sys", recursive=True)
            m.set_attributes(fd, attributes)
            return fd


class BindMount(Operation):
    """Part of the host's tree.

    ``source_fd``: a detached copy made beforehand, else ``source`` is opened here. The maps, lists of (inside, outside,
    count), are of an id-mapped mount.
    """

    __slots__ = ("destination", "gid_map", "options", "source", "source_fd", "uid_map")

    def __init__(
        self, destination: str, source: str, options: Options, uid_map: list[IdMap], gid_map: list[IdMap]
    ) -> None:
        self.destination = destination
        self.source = source
        self.options = options
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.source_fd = -1

    def describe(self) -> str:
        """See ``Operation``."""
        return f"mount {self.source} at {self.destination}"

    def open_source(self) -> int:
        """A detached copy of the source; the caller closes it."""
        return m.clone_mount(_AT_FDCWD, self.source, self.options.recursive)

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        fd = self.source_fd if self.source_fd >= 0 else self.open_source()
        self.source_fd = -1
        try:
            directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            place = root.mountpoint(self.destination, directory)
            try:
                is_proc = m.filesystem_type(fd) == m.PROC_SUPER_MAGIC and os.fstat(fd).st_ino == _PROC_ROOT_INODE
                refuse_in_proc(root, place, self.destination, is_proc)
                self._adjust(fd, root)
                m.attach_mount(fd, place)
                for flag, recursive in self.options.propagation:
                    m.set_attributes(fd, propagation=flag, recursive=recursive)
            finally:
                os.close(place)
        finally:
            os.close(fd)

    def _adjust(self, fd: int, root: Root) -> None:
        options = self.options
        if options.touched:
            wanted, clear = options.attr_set, options.attr_clear
            try:
                m.set_attributes(fd, wanted, clear | (_ALL_ATTRIBUTES & ~wanted))
            except PermissionError:
                if not root.user_namespace:
                    raise
                m.set_attributes(fd, wanted, clear)  # the others are locked: they stay
        if options.recursive_set or options.recursive_clear:
            m.set_attributes(fd, options.recursive_set, options.recursive_clear, recursive=True)


class CgroupMount(Operation):
    """The container's control groups as the hierarchies of this machine: one file system, or a directory of them."""

    __slots__ = ("destination", "options")

    def __init__(self, destination: str, options: Options) -> None:
        self.destination = destination
        self.options = options

    def describe(self) -> str:
        """See ``Operation``."""
        return f"mount cgroup at {self.destination}"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        root.joined()
        place = root.mountpoint(self.destination, True)
        try:
            refuse_in_proc(root, place, self.destination, is_proc=False)
            found = layout()
            if found.mode == "unified":
                fd = self._unified(root, found.v2)
                try:
                    m.attach_mount(fd, place)
                finally:
                    os.close(fd)
            else:
                self._directories(root, place, found.v1)
        finally:
            os.close(place)

    def _unified(self, root: Root, mounted: str) -> int:
        if root.cgroup_namespace or not root.user_namespace:
            try:
                return m.new_mount("cgroup2", [], self.options.attr_set)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EBUSY):
                    raise
        own = "" if root.cgroup_namespace else root.cgroup.path
        return self._bind(f"{mounted}{own}")

    def _directories(self, root: Root, place: int, mounts: dict[str, str]) -> None:
        attributes = self.options.attr_set
        top = m.new_mount("tmpfs", [("mode", "755")], attributes & ~m.MOUNT_ATTR_RDONLY, "cgroup")
        m.attach_mount(top, place)
        for mounted in dict.fromkeys(mounts.values()):
            name = os.path.basename(mounted)
            own = "" if root.cgroup_namespace else root.cgroup.path
            os.mkdir(name, 0o755, dir_fd=top)
            inner = os.open(name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                fd = self._hierarchy(root, mounts, mounted) if root.cgroup_namespace else self._bind(f"{mounted}{own}")
                try:
                    m.attach_mount(fd, inner)
                finally:
                    os.close(fd)
            finally:
                os.close(inner)
        for controller, mounted in mounts.items():
            name = os.path.basename(mounted)
            if name != controller and not controller.startswith("name="):
                os.symlink(name, controller, dir_fd=top)
        root.late.append((top, attributes & m.MOUNT_ATTR_RDONLY))

    def _hierarchy(self, root: Root, mounts: dict[str, str], mounted: str) -> int:
        controllers = [controller for controller, where in mounts.items() if where == mounted]
        data = [("name", c[5:]) if c.startswith("name=") else (c, "") for c in controllers]
        if any(c.startswith("name=") for c in controllers):
            data.append(("none", ""))
        return m.new_mount("cgroup", data, self.options.attr_set, "cgroup")

    def _bind(self, source: str) -> int:
        fd = m.clone_mount(_AT_FDCWD, source)
        try:
            m.set_attributes(fd, self.options.attr_set)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _ordinary_directory(root: Root, destination: str) -> int:
    """Open the place for a procfs or sysfs: it decides what masks and labels act on, so no link may lead elsewhere."""
    try:
        return open_plain(root.fd, destination, O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        place = root.mountpoint(destination, True)
        os.close(place)
        try:
            return open_plain(root.fd, destination, O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise _not_ordinary(destination) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _not_ordinary(destination) from error
        raise


def _not_ordinary(destination: str) -> RuntimeFailure:
    return RuntimeFailure(f"mount at {destination}", reason=f"{destination} must be mounted on ordinary directory")


def refuse_in_proc(root: Root, place: int, destination: str, is_proc: bool) -> None:
    """Refuse to cover /proc, or what is in it, with anything that could deceive us or the container.

    ``place`` is where the mount would go, whatever ``destination`` said; ``is_proc`` whether it is a procfs itself.
    """
    refusal = RuntimeFailure(
        f"mount at {destination}", reason=f"{destination} cannot be mounted because it is inside /proc"
    )
    if destination == "/proc" and not is_proc:
        raise refusal
    if m.filesystem_type(place) != m.PROC_SUPER_MAGIC:
        return
    if os.fstat(place).st_ino == _PROC_ROOT_INODE and is_proc:
        return
    if destination.startswith("/proc/") and destination[6:] in _ALLOWED_IN_PROC:
        try:
            allowed = open_plain(root.fd, destination)
        except OSError:
            raise refusal from None
        try:
            if os.path.samestat(os.fstat(allowed), os.fstat(place)):
                return
        finally:
            os.close(allowed)
    raise refusal
