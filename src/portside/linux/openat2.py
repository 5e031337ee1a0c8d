"""Opening paths inside a tree that somebody else controls (openat2(2)).

What belongs here: resolving a path below a directory descriptor so that nothing outside is reached whatever the tree
contains, and making what is missing on the way. What does not: what is done with the descriptor.

All paths are taken as rooted at the descriptor: ``/etc/passwd`` and ``etc/passwd`` are the same, ``..`` and symbolic
links stay inside, links of /proc that lead elsewhere ("magic links") are refused with ELOOP.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from portside.linux.fd import O_PATH, OwnedFd
from portside.linux.syscalls import declare, encode

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

#: How often a walk is begun again because somebody moved the tree under it.
_ATTEMPTS = 64


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_SIZE = ctypes.sizeof(_OpenHow)
_openat2 = declare("openat2", ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)


def openat2(directory: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open ``path`` below ``directory``; returns a close-on-exec descriptor that the caller closes.

    EAGAIN (the tree changed during the walk, so the kernel could not tell whether ``..`` stayed inside) is tried again.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    encoded = encode(path)
    for _ in range(_ATTEMPTS):
        try:
            return _openat2(directory, encoded, how, _HOW_SIZE)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    return _openat2(directory, encoded, how, _HOW_SIZE)


def open_in_root(root: int, path: str, flags: int = O_PATH, resolve: int = 0) -> int:
    """Open ``path`` as it is seen by a process whose root is ``root``. The caller closes the result."""
    return openat2(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)


def find_in_root(root: int, path: str, flags: int = O_PATH) -> int:
    """As :func:`open_in_root`, but -1 where nothing is at ``path`` (cheaper than an exception)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    found = _openat2.attempt(root, encode(path), how, _HOW_SIZE)
    if found >= 0:
        return found
    if found in (-errno.ENOENT, -errno.ENOTDIR):
        return -1
    return open_in_root(root, path, flags)


def open_plain(root: int, path: str, flags: int = O_PATH) -> int:
    """Open ``path`` below ``root`` where no component may be a symbolic link (ELOOP). The caller closes the result."""
    return openat2(root, path.lstrip("/") or ".", flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """Open the directory ``path`` below ``root``, making what is missing; returns an O_PATH descriptor.

    Existing links are followed inside the root; a link to nothing is made into the directory it points to.
    Made directories get exactly ``mode``, whatever the umask, and inherit a set-group-ID bit.
    """
    found = find_in_root(root, path, O_PATH | os.O_DIRECTORY)
    if found < 0:
        found = _make_last(root, path, mode)
    if found < 0:
        parent, name = make_parent(root, path)
        with parent:
            found = _make_directory(parent.fileno(), name, mode)
    return found


def _make_last(root: int, path: str, mode: int) -> int:
    """The common case: only the last component is missing. -1 if it is another case."""
    above, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        return -1
    parent = find_in_root(root, above or "/", O_PATH | os.O_DIRECTORY)
    if parent < 0:
        return -1
    try:
        os.mkdir(name, mode, dir_fd=parent)
        return _open_made(parent, name, mode)
    except FileExistsError:
        return -1  # a link to nothing, or no directory
    finally:
        os.close(parent)


def make_file(root: int, path: str, mode: int = 0o644, directory_mode: int = 0o755) -> int:
    """Open the file ``path`` below ``root`` for use as a place to mount on, making what is missing (O_PATH)."""
    found = find_in_root(root, path)
    if found >= 0:
        return found
    parent, name = make_parent(root, path, directory_mode)
    with parent:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        try:
            os.close(openat2(parent.fileno(), name, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS))
        except FileExistsError:
            pass  # Somebody else made it between the two looks; what it is, is seen below.
        return openat2(parent.fileno(), name, O_PATH | os.O_NOFOLLOW, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def make_parent(root: int, path: str, mode: int = 0o755) -> tuple[OwnedFd, str]:
    """The directory in which the missing last component of ``path`` has to be made, and that component's final name.

    Links are followed inside the root, including a last one that points to nothing. The caller closes the directory.
    """
    pending = [part for part in path.split("/") if part and part != "."][::-1]
    current = OwnedFd(openat2(root, ".", O_PATH | os.O_DIRECTORY))
    walked: list[str] = []  # Where we are as text, for ``..``; each step is opened from the root again.
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name == "..":
                walked = walked[:-1]
                current = _replace(current, open_in_root(root, "/".join(walked) or ".", O_PATH | os.O_DIRECTORY))
                continue
            target = _link_target(current.fileno(), name)
            if target is not None:
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    walked = []
                    current = _replace(current, openat2(root, ".", O_PATH | os.O_DIRECTORY))
                pending.extend([part for part in target.split("/") if part and part != "."][::-1])
                continue
            if not pending:
                return current, name
            current = _replace(current, _make_directory(current.fileno(), name, mode))
            walked.append(name)
    except BaseException:
        current.close()
        raise
    current.close()
    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _replace(old: OwnedFd, new: int) -> OwnedFd:
    old.close()
    return OwnedFd(new)


def _link_target(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _make_directory(parent: int, name: str, mode: int) -> int:
    """Make or open the directory ``name`` (one component, not a link) in ``parent``."""
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return openat2(parent, name, O_PATH | os.O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    return _open_made(parent, name, mode)


def _open_made(parent: int, name: str, mode: int) -> int:
    """Open the directory that was just made, and give it the mode that the umask took from it."""
    found = openat2(parent, name, O_PATH | os.O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    try:
        bits = os.fstat(found).st_mode
        if bits & 0o777 != mode:
            # Not by name: another process may have exchanged it. Linux cannot fchmod an O_PATH descriptor.
            with OwnedFd(openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS)) as readable:
                os.fchmod(readable.fileno(), mode | (bits & stat.S_ISGID))
    except BaseException:
        os.close(found)
        raise
    return found
