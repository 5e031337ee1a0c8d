"""A full copy of a tree: data (shared blocks where the file system can), holes, links, devices, times, attributes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409
_CHUNK = 16 << 20


def copy_tree(source: str | bytes, target: str | bytes, *, link: bool = False) -> None:
    """Copy everything in the directory ``source`` and its own attributes to the existing, empty directory ``target``.

    Nothing is followed: symbolic links are copied as links, devices are made anew. With ``link``, files are linked
    where both are on one file system: only for trees that nobody changes any more. OSError as it comes.
    """
    source_fd = os.open(source, _DIRECTORY)
    try:
        target_fd = os.open(target, _DIRECTORY)
        try:
            _Copier(target_fd, link).copy_directory(source_fd, target_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


class _Copier:
    """One copy; remembers where an inode with several names was put first."""

    def __init__(self, root: int, link: bool) -> None:
        self._root, self._link = root, link
        self._first: dict[tuple[int, int], bytes] = {}

    def copy_directory(self, source: int, target: int, path: bytes = b"") -> None:
        """Contents first, then the directory's own attributes: filling it changes its time."""
        with os.scandir(source) as entries:
            names = [os.fsencode(entry.name) for entry in entries]
        for name in names:
            self._copy(source, target, name, path + b"/" + name if path else name)
        _copy_attributes(source, target, os.fstat(source))

    def _copy(self, source: int, target: int, name: bytes, path: bytes) -> None:
        status = os.lstat(name, dir_fd=source)
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            first = self._first.setdefault(key, path)
            if first is not path:
                os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
                return
        if kind == stat.S_IFDIR:
            self._copy_subdirectory(source, target, name, path)
        elif kind == stat.S_IFREG:
            if self._link and _linked(source, target, name):
                return
            _copy_file(source, target, name, status)
        elif kind != stat.S_IFSOCK:  # a socket without the process that listens on it is nothing
            if kind == stat.S_IFLNK:
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            else:
                os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
            _copy_attributes_of_name(source, target, name, status)

    def _copy_subdirectory(self, source: int, target: int, name: bytes, path: bytes) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        inner_source = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            inner_target = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.copy_directory(inner_source, inner_target, path)
            finally:
                os.close(inner_target)
        finally:
            os.close(inner_source)


def _linked(source: int, target: int, name: bytes) -> bool:
    """Give the file a second name; False where that cannot be."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EMLINK, errno.EPERM):
            return False
        raise
    return True


def _copy_file(source: int, target: int, name: bytes, status: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(name, flags, 0o600, dir_fd=target)
        try:
            copy_data(reader, writer, status.st_size)
            _copy_attributes(reader, writer, status)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def copy_data(reader: int, writer: int, size: int) -> None:
    """Make the empty file ``writer`` hold what ``reader`` does: shared blocks where possible, holes stay holes."""
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
            raise
    offset = 0
    while offset < size:
        try:
            start = os.lseek(reader, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        end = os.lseek(reader, start, os.SEEK_HOLE)
        _copy_range(reader, writer, start, end)
        offset = end
    os.ftruncate(writer, size)


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    os.lseek(reader, start, os.SEEK_SET)
    os.lseek(writer, start, os.SEEK_SET)
    while start < end:
        try:
            copied = os.copy_file_range(reader, writer, min(_CHUNK, end - start))
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            copied = os.sendfile(writer, reader, None, min(_CHUNK, end - start))
        if copied == 0:
            return  # it became shorter meanwhile
        start += copied


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """By descriptors, for files and directories. The order matters: chown clears setuid and file capabilities."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        _set_attribute(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_attributes_of_name(source: int, target: int, name: bytes, status: os.stat_result) -> None:
    """For links, fifos and devices, which are never opened: opening a device may do something."""
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    from_path, to_path = f"/proc/self/fd/{source}/".encode() + name, f"/proc/self/fd/{target}/".encode() + name
    for attribute in os.listxattr(from_path, follow_symlinks=False):
        value = os.getxattr(from_path, attribute, follow_symlinks=False)
        _set_attribute(to_path, attribute, value)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _set_attribute(target: int | bytes, name: str, value: bytes) -> None:
    try:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except OSError as error:
        # security.selinux and the like are the target file system's own business.
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM) or name == "security.capability":
            raise
