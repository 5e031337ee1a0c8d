"""Walking a group and the groups below it in one hierarchy: its processes, and its removal.

A container may make groups of its own below the one it was given; they count as part of it.
"""

from __future__ import annotations

import errno
import os
import time

from portside.linux.cgroups.writes import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LAST_WAIT = 0.1
"""The longest pause between two tries of a removal, in seconds."""


def descend(directory: str) -> Iterator[str]:
    """``directory`` and all groups below it, the deepest first; what vanishes meanwhile is passed over."""
    try:
        # The kernel counts a link for each group below (and two of its own): mostly there is none to look for.
        below = os.stat(directory).st_nlink > 2
        if below:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            for name in names:
                yield from descend(f"{directory}/{name}")
    except FileNotFoundError:
        return
    yield directory


def pids_in(directory: str) -> list[int]:
    """The processes in ``directory`` and below, each once, in ascending order; empty if the group has gone.

    Processes of another PID namespace, which the kernel shows as 0, are left out.
    """
    found: set[int] = set()
    for group in descend(directory):
        try:
            found.update(map(int, read_file(f"{group}/cgroup.procs").split()))
        except OSError as error:
            # A threaded group has no list of processes of its own: its domain, further up, has them.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
    return sorted(found - {0})


def remove_tree(directory: str, timeout: float) -> None:
    """Remove ``directory`` and all groups below it; nothing happens if it has gone already.

    A group stays busy for a moment after its last process was reaped: tried again until ``timeout`` seconds have
    passed, then OSError (EBUSY).
    """
    deadline = 0.0
    wait = 0.0005
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            now = time.monotonic()
            deadline = deadline or now + timeout
            if now >= deadline:
                raise
        if not _remove_below(directory):
            time.sleep(wait)
            wait = min(wait * 2, _LAST_WAIT)


def _remove_below(directory: str) -> bool:
    """Remove the groups below ``directory`` that can be removed; whether there was one."""
    removed = False
    for group in descend(directory):
        if group != directory:
            try:
                os.rmdir(group)
                removed = True
            except FileNotFoundError:
                removed = True
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
    return removed
