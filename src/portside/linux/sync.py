"""Bringing a whole file system to disk: ``syncfs(2)``, one call for all its files instead of an fsync of each."""

from __future__ import annotations

import ctypes
import os

from portside.linux.syscalls import declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike

_syncfs = declare("syncfs", ctypes.c_int)


def sync_file_system(place: int | str | PathLike[str]) -> None:
    """Write everything of the file system that holds ``place`` (a directory, or its descriptor) to disk.

    OSError also for writes that failed before.
    """
    fd = place if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _syncfs(fd)
    finally:
        if fd is not place:
            os.close(fd)
