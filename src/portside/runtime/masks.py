"""Paths of a container that show nothing (``maskedPaths``) or cannot be written (``readonlyPaths``)."""

from __future__ import annotations

import os
import stat

from portside.linux import mount as m
from portside.runtime.failure import RuntimeFailure
from portside.runtime.mounts import Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.runtime.root import Root

_NULL = os.makedev(1, 3)


class MaskPaths(Operation):
    """Cover files with the container's /dev/null and directories with one empty, read-only tmpfs."""

    __slots__ = ("paths",)

    def __init__(self, paths: list[str]) -> None:
        self.paths = list(dict.fromkeys(paths))

    def describe(self) -> str:
        """See ``Operation``."""
        return f"mask {len(self.paths)} paths"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        null = empty = -1
        try:
            for path in self.paths:
                place = _open_if_there(root, path)
                if place < 0:
                    continue
                try:
                    if stat.S_ISDIR(os.fstat(place).st_mode):
                        if empty < 0:
                            empty = m.new_mount(
                                "tmpfs", [("mode", "755"), ("size", "0k"), ("nr_inodes", "1")], m.MOUNT_ATTR_RDONLY
                            )
                            # Before Linux 6.15 only what is attached can be cloned, so the first is the mount itself.
                            m.attach_mount(empty, place)
                        else:
                            _cover(empty, place)
                    else:
                        if null < 0:
                            null = _open_null(root)
                        _cover(null, place)
                except OSError as error:
                    raise RuntimeFailure.of("mask path", error, path) from error
                finally:
                    os.close(place)
        finally:
            for fd in (null, empty):
                if fd >= 0:
                    os.close(fd)


class ReadonlyPaths(Operation):
    """Make paths read-only by a mount of each on itself."""

    __slots__ = ("paths",)

    def __init__(self, paths: list[str]) -> None:
        self.paths = list(dict.fromkeys(paths))

    def describe(self) -> str:
        """See ``Operation``."""
        return f"make {len(self.paths)} paths read-only"

    def run(self, root: Root) -> None:
        """See ``Operation``."""
        for path in self.paths:
            place = _open_if_there(root, path)
            if place < 0:
                continue
            try:
                fd = m.clone_mount(place, recursive=True)
                try:
                    m.set_attributes(fd, m.MOUNT_ATTR_RDONLY)
                    m.attach_mount(fd, place)
                finally:
                    os.close(fd)
            except OSError as error:
                raise RuntimeFailure.of("make path read-only", error, path) from error
            finally:
                os.close(place)


def _open_if_there(root: Root, path: str) -> int:
    try:
        return root.find(path)
    except OSError as error:
        raise RuntimeFailure.of("open path to cover", error, path) from error


def _open_null(root: Root) -> int:
    """The container's /dev/null, which must be one: an image could have put a link to a file of /proc there."""
    fd = root.open("/dev/null")
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NULL:
        os.close(fd)
        raise RuntimeFailure("mask paths", "/dev/null", reason="is not the null device (character device 1:3)")
    return fd


def _cover(source: int, place: int) -> None:
    fd = m.clone_mount(source)
    try:
        m.attach_mount(fd, place)
    finally:
        os.close(fd)
