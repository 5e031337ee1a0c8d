"""The machine's device nodes, for privileged containers."""

from __future__ import annotations

import os
import stat
from typing import Any

_SKIP = frozenset({"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"})
MAX_DEVICES = 4096


def host_devices(root: str = "/dev") -> list[dict[str, Any]]:
    """Every character and block device below ``root``, as runtime-spec has them; what cannot be seen is left out."""
    found: list[dict[str, Any]] = []
    pending = [root]
    while pending:
        try:
            entries = sorted(os.scandir(pending.pop()), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name in _SKIP or len(found) >= MAX_DEVICES:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                found.append(_device(entry.path, status))
    return found


def _device(path: str, status: os.stat_result) -> dict[str, Any]:
    return {
        "path": path,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
