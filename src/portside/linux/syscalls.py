"""System calls by number: prototypes, the one check that turns errno into ``OSError``, and the retry after a signal.

What belongs here: the numbers of the calls that Python's ``os`` does not offer (or offers only in newer versions), and
:func:`declare`, with which a module of this package declares a prototype once. What does not: constants and meaning of
a single call; they live in the module of their subject (``mount``, ``namespaces``, ``openat2``, …).

Every call goes by number rather than through a wrapper of libc: wrappers come and go with versions of glibc and musl,
and some do more than the call (glibc's ``setresuid`` signals other threads). ``os`` retries after EINTR, ctypes does
not, therefore we do.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)

#: Longest text of one argument in a message: some arguments are chosen by others.
_ARGUMENT_LIMIT = 200

# name: (x86_64, aarch64); include/uapi/asm-generic/unistd.h and arch/x86/entry/syscalls/syscall_64.tbl.
_NUMBERS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fstatfs": (138, 44),
    "getcwd": (79, 17),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "renameat2": (316, 276),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "syncfs": (306, 267),
    "umount2": (166, 39),
    "unshare": (272, 97),
}
# From 424 on all architectures share their numbers.
_SHARED = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "fchmodat2": 452,
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine, -1)


def number(name: str) -> int:
    """The number of system call ``name`` on this machine, or -1 (which the kernel answers with ENOSYS)."""
    if name in _SHARED:
        return _SHARED[name]
    return _NUMBERS[name][_COLUMN] if _COLUMN >= 0 else -1


def encode(path: str | bytes) -> bytes:
    """``path`` as the kernel wants it. Raises ``OSError`` (EINVAL) for a NUL byte, at which C would silently cut."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "embedded NUL byte", path)
    return encoded


def describe(argument: Any) -> str:
    """One argument of a call for a message: paths as text, buffers by their length."""
    if isinstance(argument, bytes):
        return f'"{os.fsdecode(argument)[:_ARGUMENT_LIMIT]}"'
    if argument is None:
        return "NULL"
    if isinstance(argument, int):
        return str(argument)
    return f"<{type(argument).__name__.lower()}>"


def fail(code: int, name: str, arguments: tuple[Any, ...]) -> NoReturn:
    """Raise the ``OSError`` for a failed call; its ``strerror`` names the call, the arguments and the reason."""
    text = ", ".join(map(describe, arguments))
    raise OSError(code, f"{name}({text}): {os.strerror(code)}")


class Syscall:
    """One system call with its prototype."""

    __slots__ = ("_function", "_number", "name")

    def __init__(self, name: str, argtypes: tuple[Any, ...]) -> None:
        self.name = name
        self._number = number(name)
        self._function = _libc["syscall"]  # a new function object each time, so each call has its own prototype
        self._function.argtypes = (ctypes.c_long, *argtypes)
        self._function.restype = ctypes.c_long

    def __call__(self, *arguments: Any) -> int:
        """Make the call: its result (>= 0), or the ``OSError`` of :func:`fail`."""
        while True:
            result: int = self._function(self._number, *arguments)
            if result >= 0:
                return result
            code = ctypes.get_errno()
            if code != errno.EINTR:
                fail(code, self.name, arguments)

    def attempt(self, *arguments: Any) -> int:
        """Make the call where a failure is ordinary: its result, or the errno as a negative number."""
        while True:
            result: int = self._function(self._number, *arguments)
            if result >= 0:
                return result
            code = ctypes.get_errno()
            if code != errno.EINTR:
                return -code


def declare(name: str, *argtypes: Any) -> Syscall:
    """Declare system call ``name`` with the ctypes of its arguments; once for each call, at module level."""
    return Syscall(name, argtypes)
