"""Comparing two directory trees exactly: what is there, of which kind, whose, and every byte. Nothing is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_OVERLAY, _OPAQUE = ("trusted.overlay.", "user.overlay."), ".opaque"


def differences(expected: int, found: int, path: str = "") -> Iterator[str]:
    """What is different in the directory ``found``, one sentence each; both are descriptors that stay the caller's.

    The attributes of the two directories themselves, and times of directories, are not compared.
    """
    wanted, there = set(os.listdir(expected)), set(os.listdir(found))
    for name in sorted(wanted | there):
        where = f"{path}/{name}"
        if name not in there:
            yield f"{where} is missing"
        elif name not in wanted:
            yield f"{where} is not in the layer"
        else:
            yield from _entry(expected, found, name, where)


def _entry(expected: int, found: int, name: str, where: str) -> Iterator[str]:
    one, two = os.lstat(name, dir_fd=expected), os.lstat(name, dir_fd=found)
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(two.st_mode):
        yield f"{where} is of another kind"
        return
    if stat.S_ISCHR(one.st_mode) and one.st_rdev == two.st_rdev == 0:
        return  # a whiteout: nothing else about it means anything
    if (one.st_mode, one.st_uid, one.st_gid) != (two.st_mode, two.st_uid, two.st_gid):
        yield f"{where} has another mode or owner"
    if not stat.S_ISDIR(one.st_mode) and one.st_mtime_ns != two.st_mtime_ns:
        yield f"{where} has another time"
    if _attributes(expected, name) != _attributes(found, name):
        yield f"{where} has other extended attributes"
    if stat.S_ISDIR(one.st_mode):
        yield from _directories(expected, found, name, where)
    elif stat.S_ISLNK(one.st_mode):
        if os.readlink(name, dir_fd=expected) != os.readlink(name, dir_fd=found):
            yield f"{where} points elsewhere"
    elif stat.S_ISREG(one.st_mode):
        if one.st_size != two.st_size or not _same_bytes(expected, found, name):
            yield f"{where} has other content"
    elif one.st_rdev != two.st_rdev:
        yield f"{where} is another device"


def _directories(expected: int, found: int, name: str, where: str) -> Iterator[str]:
    one = os.open(name, _DIRECTORY, dir_fd=expected)
    try:
        two = os.open(name, _DIRECTORY, dir_fd=found)
        try:
            yield from differences(one, two, where)
        finally:
            os.close(two)
    finally:
        os.close(one)


def _attributes(directory: int, name: str) -> dict[str, bytes]:
    path = f"/proc/self/fd/{directory}/{name}"
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {each: os.getxattr(path, each, follow_symlinks=False) for each in names if _is_content(each)}
    except OSError:
        return {}


def _is_content(attribute: str) -> bool:
    """Whether it belongs to the layer, not to the file system or to overlayfs, which notes where files came from."""
    return attribute != "security.selinux" and (not attribute.startswith(_OVERLAY) or attribute.endswith(_OPAQUE))


def _same_bytes(expected: int, found: int, name: str) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(name, flags, dir_fd=expected), "rb", 0) as one,
        open(os.open(name, flags, dir_fd=found), "rb", 0) as two,
    ):
        while True:
            first = one.read(_CHUNK)
            if first != two.read(_CHUNK):
                return False
            if not first:
                return True
