"""Mounts by descriptor: mount(2), umount2(2), pivot_root(2) and the calls around fsopen(2), open_tree(2).

What belongs here: one function for each call, and the constants with their kernel names. What does not: where a
container wants its mounts.
"""

from __future__ import annotations

import ctypes
import os

from portside.linux.fd import OwnedFd
from portside.linux.syscalls import declare, encode

# include/uapi/linux/mount.h, sys/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# include/uapi/linux/magic.h
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_int, _uint, _ulong, _text = ctypes.c_int, ctypes.c_uint, ctypes.c_ulong, ctypes.c_char_p
_mount = declare("mount", _text, _text, _text, _ulong, _text)
_umount2 = declare("umount2", _text, _int)
_pivot_root = declare("pivot_root", _text, _text)
_fsopen = declare("fsopen", _text, _uint)
_fsconfig = declare("fsconfig", _int, _uint, _text, _text, _int)
_fsmount = declare("fsmount", _int, _uint, _uint)
_open_tree = declare("open_tree", _int, _text, _uint)
_move_mount = declare("move_mount", _int, _text, _int, _text, _uint)
_mount_setattr = declare("mount_setattr", _int, _text, _uint, ctypes.POINTER(_MountAttr), ctypes.c_size_t)
_fstatfs = declare("fstatfs", _int, ctypes.c_void_p)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2). For trees that others control use :func:`move_mount` onto a descriptor instead."""
    _mount(
        encode(source) or None,
        encode(target),
        encode(fstype) or None,
        flags,
        encode(data) or None,
    )


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _umount2(encode(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _pivot_root(encode(new_root), encode(put_old))


def new_mount(fstype: str, options: list[tuple[str, str]], attributes: int = 0, source: str = "") -> int:
    """A detached mount of a new ``fstype`` file system; returns its descriptor, which the caller closes.

    ``options`` are the file system's own as (name, value); an empty value makes a flag. ``attributes`` are
    MOUNT_ATTR_*. A refused option raises ``OSError`` with what the kernel said about it.
    """
    with OwnedFd(_fsopen(encode(fstype), FSOPEN_CLOEXEC)) as context:
        fd = context.fileno()
        try:
            if source:
                _fsconfig(fd, FSCONFIG_SET_STRING, b"source", encode(source), 0)
            for name, value in options:
                if value:
                    _fsconfig(fd, FSCONFIG_SET_STRING, encode(name), encode(value), 0)
                else:
                    _fsconfig(fd, FSCONFIG_SET_FLAG, encode(name), None, 0)
            _fsconfig(fd, FSCONFIG_CMD_CREATE, None, None, 0)
        except OSError as error:
            explanation = _explanation(fd)
            if explanation:
                raise OSError(error.errno, f"{error.strerror} ({explanation})") from error
            raise
        return _fsmount(fd, FSMOUNT_CLOEXEC, attributes)


def _explanation(context: int) -> str:
    """What the kernel logged in a file system context: one message for each read, ``e``, ``w`` or ``i`` in front."""
    messages: list[str] = []
    while len(messages) < 8:
        try:
            messages.append(os.read(context, 1024).decode(errors="replace").strip()[2:])
        except OSError:
            break
    return "; ".join(messages)


def clone_mount(directory: int, path: str = "", recursive: bool = False) -> int:
    """A detached copy ("bind") of what is mounted at ``path`` (empty: ``directory`` itself). The caller closes it."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return _open_tree(directory, encode(path), flags)


def attach_mount(mount_fd: int, target: int) -> None:
    """Attach a detached mount at the place that descriptor ``target`` is open on."""
    _move_mount(mount_fd, b"", target, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def set_attributes(
    fd: int,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns_fd: int = 0,
    path: str = "",
) -> None:
    """mount_setattr(2) on the mount that ``fd`` is open on, or on ``path`` from there."""
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    _mount_setattr(fd, encode(path), flags, attr, ctypes.sizeof(attr))


_statfs_buffer = (ctypes.c_long * 32)()


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that ``fd`` is open on (fstatfs(2): ``f_type``)."""
    _fstatfs(fd, _statfs_buffer)
    return int(_statfs_buffer[0])
