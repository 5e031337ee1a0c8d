"""Namespaces: making, joining, mapping ids (namespaces(7), clone(2), setns(2), user_namespaces(7)).

What belongs here: the calls, and the files below /proc/PID that go with them. What does not: which namespaces a
container gets.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from portside.linux.syscalls import declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x80
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x1000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

NS_GET_NSTYPE = 0xB703
_SIGCHLD = 17


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


_clone3 = declare("clone3", ctypes.POINTER(_CloneArgs), ctypes.c_size_t)
_setns = declare("setns", ctypes.c_int, ctypes.c_int)
_unshare = declare("unshare", ctypes.c_int)


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork with ``flags``; (0, -1) in the child, (pid, pidfd) in the parent, who closes the pidfd.

    With CLONE_PARENT the pidfd is -1: whoever becomes the parent opens one. The child returns into the interpreter, so
    the process must have one thread only; it must leave through exec or ``os._exit``.
    """
    arguments = _CloneArgs()
    pidfd = ctypes.c_int(-1)
    if flags & CLONE_PARENT:
        arguments.flags = flags
    else:
        arguments.flags = flags | CLONE_PIDFD
        arguments.pidfd = ctypes.addressof(pidfd)
        arguments.exit_signal = _SIGCHLD
    if cgroup_fd >= 0:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    pid = _clone3(arguments, ctypes.sizeof(arguments))
    return (pid, pidfd.value) if pid else (0, -1)


def setns(fd: int, kinds: int) -> None:
    """Join the namespace ``fd`` (of kind CLONE_NEW*), or those of the process that pidfd ``fd`` stands for."""
    _setns(fd, kinds)


def unshare(kinds: int) -> None:
    """Leave namespaces of these kinds for new ones (a pid namespace counts for children only)."""
    _unshare(kinds)


def namespace_kind(fd: int) -> int:
    """The CLONE_NEW* flag of an open namespace file, or 0 if it is not one."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EBADF):
            return 0
        raise


def same_namespace(fd: int, own: str) -> bool:
    """Whether ``fd`` is the namespace ``own`` ("user", "net", …) of this process."""
    theirs, ours = os.fstat(fd), os.stat(f"/proc/self/ns/{own}")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def write_id_maps(
    pid: int,
    uid_map: Sequence[tuple[int, int, int]],
    gid_map: Sequence[tuple[int, int, int]],
    deny_setgroups: bool = False,
) -> None:
    """Write the maps, lists of (inside, outside, count), of the new user namespace of ``pid``.

    ``deny_setgroups`` must be set for a caller without privilege (user_namespaces(7)).
    """
    if deny_setgroups:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", _lines(gid_map))
    _write(f"/proc/{pid}/uid_map", _lines(uid_map))


def user_namespace(uid_map: Sequence[tuple[int, int, int]], gid_map: Sequence[tuple[int, int, int]]) -> int:
    """A user namespace with these maps and nobody in it, for id-mapped mounts; the caller closes the descriptor."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        try:
            os.close(writer)
            os.read(reader, 1)  # until the maps are written and the namespace is held by a descriptor
        finally:
            os._exit(0)
    try:
        os.close(reader)
        write_id_maps(pid, uid_map, gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writer)
        os.close(pidfd)
        os.waitpid(pid, 0)


def _lines(entries: Sequence[tuple[int, int, int]]) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in entries)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())  # The kernel takes a map in one write only.
    finally:
        os.close(fd)
