"""What a layer worker gives up before it looks at the first byte of a layer, so that an attack through it ends there.

In this order: no core dump and no debugger; network, IPC and host name of its own; the target as its root directory,
mounted without devices, setuid and execution where the kernel can (Linux 5.12); only the capabilities that unpacking
needs; a list of system calls, everything else is EPERM. What this machine does not allow (in a container, without
root) is left out and told: the rest still holds, and the code that runs behind it is written to need none of it.

What does not belong here: the work itself. Everything that the work imports has to be imported before ``enter``.
"""

from __future__ import annotations

import os
import resource
import struct
import sys

from portside.linux.capabilities import capget, capset, mask_of
from portside.linux.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    clone_mount,
    set_attributes,
)
from portside.linux.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS, unshare
from portside.linux.process import set_dumpable, set_no_new_privileges
from portside.linux.seccomp import Filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CLONE_THREAD = 0x10000
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP")
_FOR_ATTRIBUTES = "SYS_ADMIN"
"""trusted. attributes, which mark overlayfs' opaque directories, need it; the list of system calls keeps the rest
away."""
_MEMORY = 2 << 30
_FILES = 1024

# name: (x86_64, aarch64), -1 where the machine has no such call
_ALLOWED = {
    "brk": (12, 214), "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "close": (3, 57), "dup": (32, 23),
    "exit": (60, 93), "exit_group": (231, 94), "fchdir": (81, 50), "fchmod": (91, 52), "fchown": (93, 55),
    "fchownat": (260, 54), "fcntl": (72, 25), "fgetxattr": (193, 10), "flistxattr": (196, 13), "fsetxattr": (190, 7),
    "fstat": (5, 80), "ftruncate": (77, 46), "futex": (202, 98), "getdents64": (217, 61), "getpid": (39, 172),
    "getrandom": (318, 278), "gettid": (186, 178), "lgetxattr": (192, 9), "linkat": (265, 37), "llistxattr": (195, 12),
    "lseek": (8, 62), "lstat": (6, -1), "madvise": (28, 233), "mkdirat": (258, 34), "mknodat": (259, 33),
    "mmap": (9, 222), "mprotect": (10, 226), "mremap": (25, 216), "munmap": (11, 215), "nanosleep": (35, 101),
    "newfstatat": (262, 79), "open": (2, -1), "openat": (257, 56), "poll": (7, -1), "ppoll": (271, 73),
    "pread64": (17, 67), "read": (0, 63), "readlinkat": (267, 78), "readv": (19, 65), "renameat": (264, 38),
    "renameat2": (316, 276), "restart_syscall": (219, 128), "rseq": (334, 293), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sched_getaffinity": (204, 123), "sched_yield": (24, 124),
    "set_robust_list": (273, 99), "sigaltstack": (131, 132), "stat": (4, -1), "statx": (332, 291),
    "symlinkat": (266, 36), "tgkill": (234, 131), "unlinkat": (263, 35), "utimensat": (280, 88), "write": (1, 64),
    "writev": (20, 66),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), 435
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def enter(root: int, lowers: Sequence[int], *, attributes: bool, read_only: bool = False) -> list[str]:
    """Give up what is not needed; what could not be given up, in words.

    ``root`` becomes ``/`` and ``lowers`` read-only; the descriptors keep their numbers. ``attributes``: trusted
    attributes must be read or written. The process must have one thread, since half of this is a thread's own.
    """
    left: list[str] = []
    os.umask(0)
    set_dumpable(0)
    set_no_new_privileges()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower_limit(resource.RLIMIT_AS, _MEMORY)
    _lower_limit(resource.RLIMIT_NOFILE, _FILES + 2 * len(lowers))
    _try(left, "network, IPC and host name", lambda: unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS))
    flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    _try(left, "mount flags", lambda: _remount(root, flags | (MOUNT_ATTR_RDONLY if read_only else 0)))
    _try(left, "read-only lower layers", lambda: _remount_all(lowers, flags | MOUNT_ATTR_RDONLY))
    os.fchdir(root)
    _try(left, "root directory", lambda: os.chroot("."))
    _try(left, "capabilities", lambda: _keep((*_CAPABILITIES, _FOR_ATTRIBUTES) if attributes else _CAPABILITIES))
    _try(left, "system calls", _filter_calls)
    _forget_modules()
    return left


def _try(left: list[str], what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        left.append(f"{what}: {error.strerror}")


def _lower_limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _remount(fd: int, attributes: int) -> None:
    """Put a private mount of the directory ``fd``, with ``attributes``, in its place; nobody else sees it."""
    tree = clone_mount(fd)
    try:
        set_attributes(tree, attributes)
        inside = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)  # what is open in a mount keeps it alive
    os.dup2(inside, fd, inheritable=False)
    os.close(inside)


def _remount_all(fds: Sequence[int], attributes: int) -> None:
    for fd in fds:
        _remount(fd, attributes)


def _keep(names: tuple[str, ...]) -> None:
    held = capget()[1] & mask_of(names)[0]
    capset(held, held, 0)


def _filter_calls() -> None:
    """Load a seccomp filter: the list above, threads, and ENOSYS for clone3, whose flags no filter can see."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(0, f"no list for {machine}")
    Filter(seccomp_program(*_MACHINES[machine]), 0).load()


def seccomp_program(column: int, architecture: int) -> bytes:
    """The classic BPF program (linux/filter.h: code, jt, jf, k) for one machine."""
    load, equal, has_bits, answer = 0x20, 0x15, 0x45, 0x06
    allow, eperm, enosys = 0x7FFF0000, 0x00050001, 0x00050026
    numbers = sorted(number[column] for number in _ALLOWED.values() if number[column] >= 0)
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, eperm), (load, 0, 0, 0)]
    for number in numbers:
        code += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    code += [(equal, 0, 1, _CLONE3), (answer, 0, 0, enosys)]
    code += [(equal, 0, 3, _CLONE[column]), (load, 0, 0, 16), (has_bits, 0, 1, _CLONE_THREAD), (answer, 0, 0, allow)]
    code += [(answer, 0, 0, eperm)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _forget_modules() -> None:
    """From here on nothing is imported: paths now lead into what the layer's maker wrote."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
