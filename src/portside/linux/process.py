"""What a process can change about itself: prctl(2), names of the host, keyrings, personality, descriptors.

What belongs here: one function for each call. Capabilities, filters and limits have modules of their own.
"""

from __future__ import annotations

# Without the enums of ``signal``, which cost a tenth of a millisecond here; there is no stub.
import _signal  # type: ignore[import-not-found]
import ctypes
import errno
import os

from portside.linux.syscalls import declare, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/linux/prctl.h, keyctl.h, close_range.h
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
KEYCTL_JOIN_SESSION_KEYRING = 1
CLOSE_RANGE_CLOEXEC = 4
_LAST_FD = 0xFFFFFFFF

_long, _ulong = ctypes.c_long, ctypes.c_ulong
_prctl = declare("prctl", ctypes.c_int, _ulong, _ulong, _ulong, _ulong)
_close_range = declare("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_sethostname = declare("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = declare("setdomainname", ctypes.c_char_p, ctypes.c_size_t)
_keyctl = declare("keyctl", ctypes.c_int, ctypes.c_char_p, _ulong, _ulong, _ulong)
_personality = declare("personality", _ulong)
_getcwd = declare("getcwd", ctypes.c_char_p, ctypes.c_size_t)


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) for the options with one argument."""
    return _prctl(option, argument, 0, 0, 0)


def dumpable() -> int:
    """Whether others may look into this process (PR_GET_DUMPABLE)."""
    return prctl(PR_GET_DUMPABLE)


def set_dumpable(value: int) -> None:
    """0 closes /proc/PID/{exe,fd,mem,…} and ptrace to processes without CAP_SYS_PTRACE; children inherit it."""
    prctl(PR_SET_DUMPABLE, value)


def set_no_new_privileges() -> None:
    """No later execve gives this process or its children more rights (PR_SET_NO_NEW_PRIVS)."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper(on: bool = True) -> None:
    """Orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER), or no longer."""
    prctl(PR_SET_CHILD_SUBREAPER, int(on))


def close_range(first: int, last: int = _LAST_FD, flags: int = 0) -> None:
    """Close descriptors ``first`` to ``last`` inclusive, or mark them with CLOSE_RANGE_CLOEXEC.

    Where the kernel or a filter has no close_range(2), each open descriptor is closed on its own.
    """
    try:
        _close_range(first, last, flags)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            raise
        for number in sorted(map(int, os.listdir("/proc/self/fd"))):
            if not first <= number <= last:
                continue
            try:
                if flags & CLOSE_RANGE_CLOEXEC:
                    os.set_inheritable(number, False)
                else:
                    os.close(number)
            except OSError:
                continue  # the descriptor of the listing itself


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor except those in ``keep``."""
    following = 0
    for number in sorted({number for number in keep if number >= 0}):
        if number > following:
            close_range(following, number - 1)
        following = number + 1
    close_range(following)


def reset_signals() -> None:
    """Default actions and an empty mask, as a new program expects them; execve keeps what is ignored."""
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def set_hostname(name: str) -> None:
    """sethostname(2)."""
    encoded = encode(name)
    _sethostname(encoded, len(encoded))


def set_domainname(name: str) -> None:
    """setdomainname(2), the NIS name."""
    encoded = encode(name)
    _setdomainname(encoded, len(encoded))


def join_session_keyring(name: str) -> None:
    """Leave the session keyring for a new one called ``name`` (keyctl(2)); nothing happens without keyrings."""
    try:
        _keyctl(KEYCTL_JOIN_SESSION_KEYRING, encode(name), 0, 0, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise


def set_personality(persona: int) -> None:
    """personality(2)."""
    _personality(persona)


def working_directory() -> str:
    """The kernel's view, which libc hides: ``(unreachable)…`` outside the root; ENOENT if the directory was removed."""
    buffer = ctypes.create_string_buffer(4097)
    _getcwd(buffer, len(buffer))
    return os.fsdecode(buffer.value)


def thread_count() -> int:
    """The number of threads of this process."""
    return os.stat("/proc/self/task").st_nlink - 2
