"""Who holds the locks of a file: for errors that say so (proc_locks(5)).

The kernel lists locks by device and inode. Asking the file itself (``F_GETLK``) would mean to open it, and closing that
descriptor would drop a lock of this process's own. On file systems whose inodes have other devices than their files
(btrfs) nothing is found.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_NAMED = 3


def holders(path: Path) -> list[str]:
    """The processes that lock ``path``, as ``process 12 (name)``; none if nobody does or it cannot be told."""
    try:
        status = os.stat(path)
        with open("/proc/locks") as file:
            lines = file.readlines()
    except OSError:
        return []
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids: list[int] = []
    for line in lines:
        fields = line.split()
        if "->" in fields or len(fields) < 6 or fields[5] != wanted or not fields[4].isdecimal():
            continue
        if (pid := int(fields[4])) and pid not in pids:
            pids.append(pid)
    return [f"process {pid} ({_name(pid)})" for pid in pids[:MAX_NAMED]]


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "ended"
