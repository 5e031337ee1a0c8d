"""Directories inside a root, found by name without ever leaving it: one component at a time, by descriptor.

Names come from an archive that may be hostile, and the tree below the root was made by the same hand. So each
component is opened with O_NOFOLLOW in the directory before it; a symbolic link is read and its target looked up again,
absolute ones from the root; ``..`` in a target goes to the parent by the resolved name, never by the directory's own
``..``; at the root it stays. That is what openat2(2) does with RESOLVE_IN_ROOT, but it also makes what is missing,
behind links that point nowhere too, and needs no particular kernel. Descriptors are kept for reuse: an archive's
entries come in the order of directories.
"""

from __future__ import annotations

import errno
import os
import stat

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS = 40
"""Symbolic links followed for one name, as the kernel has it."""
MAX_DEPTH = 4096
"""Components of one name after links are resolved."""
_KEPT = 200

DEFAULT_ACL = "system.posix_acl_default"

Path = tuple[bytes, ...]


def split_name(name: bytes) -> list[bytes]:
    """The components of an entry's name, ``.`` and empty ones dropped, ``..`` resolved lexically.

    A leading slash is nothing: names are relative to the root. InvalidArgument if ``..`` leads out of it.
    """
    if b"\0" in name:
        raise InvalidArgument("name has a zero byte")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidArgument("name leaves the root")
            parts.pop()
        elif part and part != b".":
            parts.append(part)
    return parts


class Directory:
    """An open directory: ``path`` is where it really is, links resolved."""

    __slots__ = ("fd", "inherits", "path")

    def __init__(self, fd: int, path: Path, inherits: bool) -> None:
        self.fd = fd
        self.path = path
        self.inherits = inherits
        """What is made in it does not get our group or the mode asked for: it, or one above, is setgid or has a
        default ACL."""


class Places:
    """The directories below ``root`` (a descriptor that stays its owner's); closed as a whole by ``forget``.

    ``made`` is called for each directory that had to be made, with the one it was made in and its name.
    """

    def __init__(self, root: int, made: Callable[[Directory, bytes], None]) -> None:
        self.root = Directory(root, (), _inherits(root) or _has_default_acl(root))
        self._made = made
        self._real: dict[Path, Directory] = {}
        self._named: dict[bytes, Directory] = {}

    def get(self, name: bytes, *, make: bool = True) -> Directory:
        """The directory that ``name`` leads to; missing ones are made (0755) or, without ``make``, FileNotFoundError.

        It stays open until ``trim`` or ``forget``. InvalidArgument for names that leave the root and loops of links,
        NotADirectoryError where a component is something else.
        """
        found = self._named.get(name)
        if found is None:
            found = self._walk(split_name(name), make)
            self._named[name] = found
        return found

    def enter(self, parent: Directory, name: bytes) -> Directory:
        """Open the directory ``name`` that really is in ``parent``; it was just made, or looked at."""
        path = parent.path + (name,)
        found = self._real.get(path)
        if found is None:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent.fd)
            found = self._real[path] = Directory(fd, path, parent.inherits or _inherits(fd))
        return found

    def trim(self) -> None:
        """Close some if there are many; called when none is in use."""
        if len(self._real) > _KEPT:
            self.forget()

    def forget_below(self, path: Path) -> None:
        """``path``, a directory or a link, was removed: close what is at or below it, and find names anew."""
        for below in [below for below in self._real if below[: len(path)] == path]:
            os.close(self._real.pop(below).fd)
        self._named.clear()

    def forget(self) -> None:
        """Close all."""
        for directory in self._real.values():
            os.close(directory.fd)
        self._real.clear()
        self._named.clear()

    def _walk(self, parts: list[bytes], make: bool) -> Directory:
        todo = parts[::-1]
        current = self.root
        links = 0
        while todo:
            part = todo.pop()
            if (
                part == b".."
            ):  # of a link's target; by name from the root, since ".." of a moved directory may be anywhere
                todo += current.path[:-1][::-1]
                current = self.root
                continue
            try:
                current = self._child(current, part, make)
                continue
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
            links += 1
            if links > MAX_LINKS:
                raise InvalidArgument("name goes through too many links, or a loop of them")
            target = _read_link(current, part)
            if target.startswith(b"/"):
                current = self.root
            todo += [step for step in target.split(b"/") if step and step != b"."][::-1]
            if len(todo) > MAX_DEPTH:
                raise InvalidArgument("name has too many components")
        return current

    def _child(self, current: Directory, part: bytes, make: bool) -> Directory:
        try:
            return self.enter(current, part)
        except FileNotFoundError:
            if not make:
                raise
        os.mkdir(part, 0o755, dir_fd=current.fd)
        self._made(current, part)
        return self.enter(current, part)


def _inherits(fd: int) -> bool:
    return bool(os.fstat(fd).st_mode & stat.S_ISGID)


def _has_default_acl(fd: int) -> bool:
    try:
        return DEFAULT_ACL in os.listxattr(fd)
    except OSError:
        return False


def _read_link(parent: Directory, name: bytes) -> bytes:
    try:
        return os.readlink(name, dir_fd=parent.fd)
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is there, but neither a directory nor a link
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        raise
