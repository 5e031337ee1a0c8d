"""Directories on top of each other seen as one tree, as overlayfs shows them, without mounting anything.

A stack of one is a plain directory. Whiteouts (character device 0:0) hide what is below, opaque directories
(``overlay.opaque``) end the stack there. Directories that were renamed with ``redirect_dir`` cannot be seen this way
and are refused; neither the kernel's default nor our mounts make any. Reading only, through descriptors, never
following a link.
"""

from __future__ import annotations

import errno
import os
import stat

from portside.errors import FailedPrecondition
from portside.layers.places import OPEN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIXES = ("trusted.overlay.", "user.overlay.")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Node:
    """What a name stands for: in which layer's directory (a descriptor) it is, and its status."""

    __slots__ = ("fd", "name", "status")

    def __init__(self, fd: int, name: bytes, status: os.stat_result) -> None:
        self.fd = fd
        self.name = name
        self.status = status

    @property
    def is_directory(self) -> bool:
        """A directory, perhaps with more below it in the stack."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def identity(self) -> tuple[int, int]:
        """Equal for two nodes only if they are one inode."""
        return self.status.st_dev, self.status.st_ino

    def open(self) -> int:
        """A regular file or directory, for reading; the caller closes it."""
        return os.open(self.name, _READ, dir_fd=self.fd)


class Merged:
    """One directory of the tree: those that make it up, top first. Owns its descriptors."""

    def __init__(self, fds: Sequence[int]) -> None:
        self.fds = list(fds)
        self.identity = tuple((status.st_dev, status.st_ino) for status in map(os.fstat, self.fds))

    @classmethod
    def of(cls, layers: Sequence[int]) -> Merged:
        """The root of a stack whose descriptors stay the caller's."""
        return cls(_until_opaque([os.dup(fd) for fd in layers]))

    def close(self) -> None:
        """Close its descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def names(self) -> dict[bytes, Node]:
        """All that can be seen in it."""
        found: dict[bytes, Node | None] = {}
        for fd in self.fds:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if name in found:
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    hidden = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
                    found[name] = None if hidden else Node(fd, name, status)
        return {name: node for name, node in found.items() if node is not None}

    def enter(self, name: bytes) -> Merged:
        """The directory ``name`` in it, whose topmost part is a directory; the caller closes it."""
        fds: list[int] = []
        for fd in self.fds:
            try:
                fds.append(os.open(name, OPEN_DIRECTORY, dir_fd=fd))
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    break  # a whiteout or a file: what is below it cannot be seen
                for each in fds:
                    os.close(each)
                raise
        return Merged(_until_opaque(fds))


def _until_opaque(fds: list[int]) -> list[int]:
    for position, fd in enumerate(fds):
        kept = {name: os.getxattr(fd, name) for name in os.listxattr(fd) if name.startswith(_PREFIXES)}
        if any(name.endswith(".redirect") for name in kept):
            raise FailedPrecondition("a directory was renamed with redirect_dir; such snapshots cannot be compared")
        if any(name.endswith(".opaque") and value == b"y" for name, value in kept.items()):
            for below in fds[position + 1 :]:
                os.close(below)
            return fds[: position + 1]
    return fds
