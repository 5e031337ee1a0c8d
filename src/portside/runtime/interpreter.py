"""A Python interpreter that a container cannot overwrite, whatever it gets hold of (CVE-2019-5736).

A process of ours that enters a container has ``/proc/PID/exe``, a link to the interpreter's file on the host. It is
closed to the container (``maker.spawn``), and programs that would execute it are refused (``program``). This is the
last line: a process started from :func:`open_interpreter` runs from a read-only mount that hangs in no namespace, so
opening the link for writing fails with EROFS for everybody. Processes forked from it inherit that; so it is done once,
when the zygote or a command is started, and costs a container nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

from portside.linux import mount as m
from portside.linux.syscalls import declare

_Strings = ctypes.POINTER(ctypes.c_char_p)
_execveat = declare("execveat", ctypes.c_int, ctypes.c_char_p, _Strings, _Strings, ctypes.c_int)


def is_protected() -> bool:
    """Whether this process runs from a file that cannot be written through /proc/self/exe."""
    return bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)


def open_interpreter(path: str = "") -> int:
    """A descriptor for executing the interpreter at ``path`` (default: ours) from a read-only mount of its own.

    The caller closes it. To start a process from it: execute ``/proc/self/fd/N`` with the descriptor passed on and
    argv[0] set to the interpreter's real path, by which Python finds its library. Needs CAP_SYS_ADMIN.
    """
    fd = m.clone_mount(-100, os.path.realpath(path or sys.executable))
    try:
        m.set_attributes(fd, m.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(fd)
        raise
    return fd


def execute(arguments: list[str], environment: dict[str, str]) -> None:
    """Become the protected interpreter with ``arguments`` (without the program); returns only by raising."""
    fd = open_interpreter()
    try:
        words = [os.fsencode(word) for word in (sys.executable, *arguments)]
        variables = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
        _execveat(
            fd,
            b"",
            (ctypes.c_char_p * (len(words) + 1))(*words, None),
            (ctypes.c_char_p * (len(variables) + 1))(*variables, None),
            m.AT_EMPTY_PATH,
        )
    finally:
        os.close(fd)
