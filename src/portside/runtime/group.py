"""How a new process gets into its control groups quickly.

Moving a process from outside makes the kernel wait for an RCU grace period, milliseconds where nothing was moved
shortly before. Two ways around are free of that: a clone into a version 2 group (CLONE_INTO_CGROUP), and a process of
one thread that writes itself into ``tasks`` of a version 1 group. The files are opened by the maker, so that they can
be written from inside a user namespace. What belongs here: the second way; the first is in ``maker``.
"""

from __future__ import annotations

import os

from portside.linux.cgroups import layout
from portside.runtime.failure import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.linux.cgroups import Cgroup


def open_joins(cgroup: Cgroup) -> list[int]:
    """Descriptors for :func:`join`, one for each version 1 hierarchy; the caller closes them."""
    unified = layout().v2
    fds: list[int] = []
    try:
        for directory in cgroup.directories():
            if not unified or not directory.startswith(unified + "/"):
                fds.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def join(fds: list[int]) -> None:
    """Move the calling process, which has one thread, into the groups; closes ``fds``."""
    try:
        for fd in fds:
            os.write(fd, b"0")
            os.close(fd)
    except OSError as error:
        raise RuntimeFailure.of("join control groups", error) from error
