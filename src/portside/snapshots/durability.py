"""Bringing a snapshot to disk: ``syncfs(2)``, one call for all its files instead of an fsync of each."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(place: int | str | os.PathLike[str]) -> None:
    """Write everything of the file system that holds ``place`` (a directory, or its descriptor) to disk.

    OSError also for writes that failed before.
    """
    fd = place if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        if fd is not place:
            os.close(fd)
