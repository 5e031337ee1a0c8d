"""Whole directory trees by descriptor: count what they take, delete them. Symbolic links are never followed.

What does not belong here: what a tree means (snapshots, layers) and copying one (``snapshots/copying.py``).
Both walks keep a bounded number of descriptors open, so a tree of any depth can be handled.
"""

from __future__ import annotations

import errno
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
MAX_DEPTH = 64
"""Descriptors that one walk holds at most; what lies deeper is handled in a second walk."""


def remove_tree(dir_fd: int, name: str | bytes) -> None:
    """Delete ``name`` in the directory ``dir_fd``, whatever it is; missing is fine.

    Directories below ``MAX_DEPTH`` are moved up into the tree's own top first, which keeps the number of open
    descriptors bounded; so the tree must be going away as a whole, and nobody may be writing to it.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    top = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        _Remover(top).run()
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=dir_fd)


class _Remover:
    """Empties one directory."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._moved = 0

    def run(self) -> None:
        # What is moved up while emptying makes another round necessary; each round removes MAX_DEPTH levels.
        while self._empty(self._top, 0):
            pass

    def _empty(self, fd: int, depth: int) -> bool:
        """Delete all entries of ``fd``; whether anything was moved up to the top meanwhile."""
        moved = False
        with os.scandir(fd) as entries:
            listing = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in listing:
            if not is_directory:
                os.unlink(name, dir_fd=fd)
            elif depth >= MAX_DEPTH:
                self._move_up(fd, name)
                moved = True
            else:
                child = os.open(name, _DIRECTORY, dir_fd=fd)
                try:
                    moved |= self._empty(child, depth + 1)
                finally:
                    os.close(child)
                os.rmdir(name, dir_fd=fd)
        return moved

    def _move_up(self, fd: int, name: str) -> None:
        while True:
            self._moved += 1
            try:
                os.rename(name, f".deep-{self._moved}", src_dir_fd=fd, dst_dir_fd=self._top)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise


def count_tree(path: str | bytes) -> tuple[int, int]:
    """Inodes and bytes on disk (allocated blocks) of the tree at ``path``, itself included; hard links count once.

    What vanishes meanwhile is left out; a deep directory that is moved away under the walk is OSError (ESTALE).
    """
    walk = _Counter()
    walk.run(os.open(path, _DIRECTORY))
    return walk.inodes, walk.blocks * 512


class _Counter:
    """Depth first, without recursion; levels far above the current one are closed and reopened by ``..``."""

    def __init__(self) -> None:
        self.inodes = self.blocks = 0
        self._linked: set[tuple[int, int]] = set()
        self._stack: list[_Level] = []

    def run(self, fd: int) -> None:
        """Count the directory ``fd`` and all below; ``fd`` is closed."""
        try:
            self._enter(fd)
            while self._stack:
                level = self._stack[-1]
                if not level.pending:
                    self._leave()
                    continue
                try:
                    child = os.open(level.pending.pop(), _DIRECTORY, dir_fd=level.fd)
                except OSError as error:
                    if error.errno in _VANISHED:
                        continue
                    raise
                self._enter(child)
        finally:
            for level in self._stack:
                level.close()

    def _enter(self, fd: int) -> None:
        level = _Level(fd)
        self._stack.append(level)
        if len(self._stack) > MAX_DEPTH:
            self._stack[-MAX_DEPTH - 1].close()
        self.inodes += 1
        self.blocks += level.status.st_blocks
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    level.pending.append(entry.name)
                    continue
                try:
                    self._count(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue

    def _count(self, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            if key in self._linked:
                return
            self._linked.add(key)
        self.inodes += 1
        self.blocks += status.st_blocks

    def _leave(self) -> None:
        level = self._stack.pop()
        above = self._stack[-1] if self._stack else None
        if above is not None and above.fd < 0:
            above.reopen(level.fd)
        level.close()


class _Level:
    """One directory of a walk."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.status = os.fstat(fd)
        self.pending: list[str] = []

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def reopen(self, child: int) -> None:
        fd = os.open("..", _DIRECTORY, dir_fd=child)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (self.status.st_dev, self.status.st_ino):
            os.close(fd)
            raise OSError(errno.ESTALE, "a directory was moved while it was walked")
        self.fd = fd
