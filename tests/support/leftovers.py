"""Counts what a container engine can leave behind: mounts, processes, cgroups, fifos, sockets, directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def mounts() -> set[str]:
    """Mount points of this namespace."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def processes(word: str) -> dict[int, str]:
    """Processes whose command line has ``word``, except ourselves."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in line:
                found[int(entry.name)] = line
    return found


def cgroups(word: str) -> set[str]:
    """Cgroups, of every hierarchy, whose path has ``word``."""
    return {
        directory for directory, _, _ in os.walk("/sys/fs/cgroup") if word in directory
    }  # the mount points themselves do not have it


def remove_empty_cgroups(name: str) -> None:
    """Remove what runtimes leave by custom: the parent, called ``name``, of containers' groups that are gone."""
    for directory, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if directory.endswith(f"/{name}"):
            try:
                os.rmdir(directory)
            except OSError:
                continue


def fifos(directory: Path) -> set[str]:
    """Fifos and sockets below a directory, in which things may come and go meanwhile."""
    return {
        path
        for above, _, names in os.walk(directory)
        for path in (f"{above}/{name}" for name in names)
        if _is_special(path)
    }


def _is_special(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
