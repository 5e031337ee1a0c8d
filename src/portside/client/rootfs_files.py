"""Reads a file of a snapshot without mounting it: the layers of an overlay are merged as the kernel would do it.

Nothing in a snapshot is trusted. Every name is opened on its own below the directory before it, never through a
link; links are followed by us, inside the snapshot; only regular files are read, and not more than a limit
(CVE-2026-47262). Knows whiteouts, opaque directories and redirects (kernel: filesystems/overlayfs.rst).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from portside.core.mount import Mount, split_lowers
from portside.errors import FailedPrecondition, InvalidArgument, NotFound, from_oserror

MAX_LINKS = 40
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_REDIRECT = ("trusted.overlay.redirect", "user.overlay.redirect")
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def layer_directories(mounts: Sequence[Mount]) -> list[str]:
    """The directories that make up the root of ``mounts``, topmost first; FailedPrecondition if they are not visible.

    A single bind is one directory; an overlay is its upper directory over its lower ones.
    """
    roots = [mount for mount in mounts if mount.target in ("", "/")]
    if len(roots) != 1:
        raise FailedPrecondition(f"snapshot of {len(mounts)} mounts: not readable without mounting it")
    mount = roots[0]
    if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
        return [mount.source]
    if mount.type != "overlay":
        raise FailedPrecondition(f"snapshot of type {mount.type}: not readable without mounting it")
    options = dict(option.partition("=")[::2] for option in mount.options)
    directories = [options["upperdir"]] if "upperdir" in options else []
    return [*directories, *split_lowers(options.get("lowerdir", ""))]


def read_rootfs_file(directories: Sequence[str], path: str, limit: int) -> bytes:
    """The content of ``path`` in the merged tree of ``directories``.

    NotFound if there is none; InvalidArgument if it is not a regular file, larger than ``limit`` bytes, or links in
    circles. ``path`` is absolute in the snapshot.
    """
    with _Walk(directories) as walk:
        fd = walk.find(path)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{path} in the image: not a regular file")
        try:
            opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise from_oserror(error, f"open {path} in the image") from error
        with os.fdopen(opened, "rb", buffering=0) as file:
            return _read(file.fileno(), path, limit)


def _read(fd: int, path: str, limit: int) -> bytes:
    if os.fstat(fd).st_size > limit:
        raise InvalidArgument(f"{path} in the image: larger than {limit} bytes")
    parts: list[bytes] = []
    left = limit + 1
    while left > 0:
        part = os.read(fd, min(left, 1 << 20))
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
    raise InvalidArgument(f"{path} in the image: larger than {limit} bytes")


class _Walk:
    """A walk through the merged tree; owns every descriptor it opens until it ends."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._fds: list[int] = []
        self._roots: list[int] = []
        try:
            for directory in directories:
                self._roots.append(self._own(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        except OSError as error:
            self.close()
            raise FailedPrecondition(f"snapshot at {directory}: not visible here ({error.strerror})") from error

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def find(self, path: str) -> int:
        """A descriptor (O_PATH) of what ``path`` names after following links."""
        stack: list[list[int]] = [self._roots]
        names = _components(path)
        links = 0
        while names:
            name = names.pop(0)
            if name == "..":
                if len(stack) > 1:
                    stack.pop()
                continue
            directories, other = self._lookup(stack[-1], name, path)
            if other is None:
                stack.append(directories)
                continue
            if stat.S_ISLNK(os.fstat(other).st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise InvalidArgument(f"{path} in the image: more than {MAX_LINKS} links")
                target = os.readlink("", dir_fd=other)
                if target.startswith("/"):
                    stack = [self._roots]
                names = [*_components(target), *names]
                continue
            if names:
                raise NotFound(f"{path} in the image: {name} is not a directory")
            return other
        return stack[-1][0]

    def _lookup(self, parents: Sequence[int], name: str, path: str) -> tuple[list[int], int | None]:
        """``name`` in a merged directory: the directories it is made of, or what else it is."""
        found: list[int] = []
        for parent in parents:
            try:
                fd = self._own(os.open(name, _PATH, dir_fd=parent))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise from_oserror(error, f"look up {path} in the image") from error
            status = os.fstat(fd)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                break
            if not stat.S_ISDIR(status.st_mode):
                if found:
                    break
                return [], fd
            found.append(fd)
            if _attribute(fd, _REDIRECT):
                raise FailedPrecondition(
                    f"{path} in the snapshot: {name} was renamed; not readable without mounting it"
                )
            if _attribute(fd, _OPAQUE) == b"y":
                break
        if not found:
            raise NotFound(f"{path} in the image: no {name}")
        return found, None


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _attribute(fd: int, names: Sequence[str]) -> bytes:
    """The first of the extended attributes that is set; an O_PATH descriptor has none of its own, hence /proc."""
    for name in names:
        try:
            return os.getxattr(f"/proc/self/fd/{fd}", name)
        except OSError:
            continue
    return b""
