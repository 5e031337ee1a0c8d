"""Copying what a tmpfs is about to cover into it (mount option ``tmpcopyup``).

Runs on descriptors only: the tree belongs to the container, so no link in it is followed.
"""

from __future__ import annotations

import errno
import os
import stat

#: How deep directories may be nested.
_MAX_DEPTH = 256


def copy_up(source: int, target: int) -> None:
    """Copy everything in directory ``source`` into directory ``target``: modes, owners, times; the umask counts not."""
    _copy_directory(source, target, 0)


def _copy_directory(source: int, target: int, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise OSError(errno.ELOOP, "directories nested too deep for tmpcopyup")
    reading = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        for name in os.listdir(reading):
            _copy_entry(reading, target, name, depth)
        status = os.fstat(reading)
        writing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
        try:
            os.fchown(writing, status.st_uid, status.st_gid)
            os.fchmod(writing, stat.S_IMODE(status.st_mode))
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_entry(source: int, target: int, name: str, depth: int) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner = os.open(name, flags, dir_fd=source)
        try:
            made = os.open(name, flags, dir_fd=target)
            try:
                _copy_directory(inner, made, depth + 1)
            finally:
                os.close(made)
        finally:
            os.close(inner)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    elif stat.S_ISREG(mode):
        _copy_file(source, target, name)
    else:
        os.mknod(name, mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        status = os.fstat(reading)
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(writing, reading, None, 1 << 24):
                pass
            os.fchown(writing, status.st_uid, status.st_gid)
            os.fchmod(writing, stat.S_IMODE(status.st_mode))
            os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(writing)
    finally:
        os.close(reading)
