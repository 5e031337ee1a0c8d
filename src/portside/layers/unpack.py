"""Entries of a layer become files below a directory (OCI image-spec, layer.md, "Applying Changesets").

What is written, and how, follows containerd where it matters to images: an entry replaces what has its name, except
that a directory is merged with a directory; links' targets are taken as they are and resolved below the root when
something is written through them; the entry for the root itself changes nothing; directories' times are set last.

Whiteouts. In a plain tree (``Whiteouts.DELETE``) ``.wh.name`` removes ``name`` and ``.wh..wh..opq`` what the directory
holds from below. In an overlayfs upper directory (``Whiteouts.OVERLAY``) they become what the kernel understands: a
character device 0:0 in place of the name, and the attribute ``trusted.overlay.opaque`` (``user.…`` inside a user
namespace). They speak of lower layers only: what this layer itself has stays, whichever came first.

All of it happens through descriptors of directories (``places``) and never follows a link at the last component. Not
here: reading archives (``tar``), the process it runs in (``worker``).
"""

from __future__ import annotations

import errno
import os
import stat

from portside.errors import InvalidArgument, PortsideError, from_oserror
from portside.layers import tar
from portside.layers.places import DEFAULT_ACL, OPEN_DIRECTORY, Directory, Places, split_name
from portside.linux.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.layers.places import Path

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_SPECIAL = 0o7000


class Whiteouts:
    """What becomes of whiteouts; see the module."""

    DELETE = "delete"
    OVERLAY = "overlay"
    USER_OVERLAY = "user-overlay"


class Unpacker:
    """Writes one layer below ``root`` (a directory's descriptor, which stays the caller's).

    ``lowers`` are descriptors of the directories below it, top first: a parent directory that the layer does not
    bring itself looks as it does there. ``devices`` False skips devices, which cannot be made in a user namespace.
    Give each entry to ``entry`` and its data to ``data``, then call ``finish``; ``close`` in any case. Errors name
    entry and step. The process's umask must be 0.
    """

    def __init__(
        self, root: int, *, whiteouts: str = Whiteouts.DELETE, lowers: Sequence[int] = (), devices: bool = True
    ) -> None:
        self._overlay = whiteouts != Whiteouts.DELETE
        self._opaque_name = "user.overlay.opaque" if whiteouts == Whiteouts.USER_OVERLAY else "trusted.overlay.opaque"
        self._hidden = ("trusted.", "user.overlay.") if whiteouts == Whiteouts.USER_OVERLAY else ("trusted.",)
        self._lowers = [Places(lower, _not_here) for lower in lowers]
        self._devices = devices
        self._places = Places(root, self._made_parent)
        self._times: dict[Path, tuple[int, int]] = {}
        self._own: set[Path] = {()}
        self._opaque_root = False
        self._file = -1
        self._file_entry: tar.Entry | None = None
        self._file_times = (0, 0)
        self._left = 0
        self._step = ""
        self._label = b""
        self.entries = self.ignored = self.whiteouts = self.bytes = 0

    def entry(self, entry: tar.Entry) -> None:
        """Make what ``entry`` says; a regular file with data stays open for ``data``."""
        self.entries += 1
        self._label = entry.name
        self._left = entry.size
        try:
            self._entry(entry)
        except OSError as error:
            raise self._failed(error) from error
        except PortsideError as error:
            raise type(error)(f"{self._where()}: {error}") from error

    def data(self, part: memoryview) -> None:
        """Write the next part of the latest entry's data."""
        if self._file < 0:
            return
        try:
            self._step = "write"
            written = os.write(self._file, part)
            while written < len(part):
                written += os.write(self._file, part[written:])
            self.bytes += written
            self._left -= written
            if not self._left:
                self._close_file()
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """Set the times of directories, which filling them has changed; hide what an opaque root hides."""
        self._label = b"."
        self._step = "hide what is below the root"
        try:
            if self._opaque_root:
                self._hide_lower_root()
            self._step = "set times"
            for path, times in self._times.items():
                self._label = b"/".join(path)
                self._places.trim()
                parent = self._places.get(b"/".join(path[:-1]), make=False)
                os.utime(path[-1], ns=times, dir_fd=parent.fd, follow_symlinks=False)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close what is open; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        for places in (self._places, *self._lowers):
            places.forget()

    def _where(self) -> str:
        return f'entry "{_text(self._label)}"'

    def _failed(self, error: OSError) -> PortsideError:
        if error.errno in (errno.ENOTDIR, errno.EISDIR):
            return InvalidArgument(f"{self._where()}: {self._step}: {error.strerror}")
        return from_oserror(error, f"{self._where()}: {self._step}")

    def _entry(self, entry: tar.Entry) -> None:
        self._step = "find its directory"
        name, _, base = entry.name.rstrip(b"/").rpartition(b"/")
        if base in (b"", b".", b".."):
            parts = split_name(entry.name)
            if not parts:
                self.ignored += 1  # the root itself: its owner and mode are the snapshot's
                return
            name, base = b"/".join(parts[:-1]), parts[-1]
        if b"\0" in base:
            raise InvalidArgument("name has a zero byte")
        self._places.trim()
        parent = self._places.get(name)
        if base.startswith(_WHITEOUT):
            self._whiteout(entry, parent, base)
            return
        if entry.kind in (tar.CHARACTER, tar.BLOCK_DEVICE) and not self._devices:
            self.ignored += 1
            return
        if not self._overlay:
            self._remember(parent.path + (base,))
        if entry.kind == tar.REGULAR:
            self._make_file(entry, parent, base)
        elif entry.kind == tar.DIRECTORY:
            self._make_directory(entry, parent, base)
        elif entry.kind == tar.HARD_LINK:
            self._make_hard_link(entry, parent, base)
        else:
            self._make_other(entry, parent, base)

    def _remember(self, path: Path) -> None:
        """This layer has ``path``, so everything above it too."""
        while path not in self._own:
            self._own.add(path)
            path = path[:-1]

    def _make_file(self, entry: tar.Entry, parent: Directory, base: bytes) -> None:
        self._step = "create file"
        try:
            fd = os.open(base, _CREATE, entry.mode, dir_fd=parent.fd)
        except FileExistsError:
            self._replace(parent, base)
            fd = os.open(base, _CREATE, entry.mode, dir_fd=parent.fd)
        self._file = fd
        # Only when the data is there: writing clears capabilities.
        wants = entry.uid or entry.gid or parent.inherits or entry.xattrs or entry.mode & _SPECIAL
        self._file_entry = entry if wants else None
        self._file_times = _times(entry)
        if not entry.size:
            self._close_file()

    def _close_file(self) -> None:
        if self._file_entry is not None:
            self._step = "set owner and mode"
            self._set_attributes(self._file, self._file_entry)
        self._step = "set times"
        os.utime(self._file, ns=self._file_times)
        fd, self._file = self._file, -1
        self._step = "close"
        os.close(fd)

    def _set_attributes(self, fd: int, entry: tar.Entry) -> None:
        """Owner first, since that clears setuid and file capabilities; mode last, since an ACL changes it."""
        os.fchown(fd, entry.uid, entry.gid)
        if entry.xattrs:
            for raw, value in entry.xattrs.items():
                name = raw.decode("utf-8", "surrogateescape")
                if not name.startswith(self._hidden):
                    self._step = f"set attribute {_text(raw)}"
                    _set_xattr(fd, name, value)
        os.fchmod(fd, entry.mode)

    def _make_directory(self, entry: tar.Entry, parent: Directory, base: bytes) -> None:
        self._step = "create directory"
        merged = False
        try:
            os.mkdir(base, entry.mode, dir_fd=parent.fd)
        except FileExistsError:
            status = os.lstat(base, dir_fd=parent.fd)
            merged = stat.S_ISDIR(status.st_mode)
            if not merged:
                self._replace(parent, base)
                os.mkdir(base, entry.mode, dir_fd=parent.fd)
                if self._overlay and _is_whiteout(status):
                    self._make_opaque(self._places.enter(parent, base))
        directory = self._places.enter(parent, base)
        self._step = "set owner and mode"
        if merged or entry.uid or entry.gid or parent.inherits or entry.xattrs or entry.mode & _SPECIAL:
            self._set_attributes(directory.fd, entry)
        if entry.mode & stat.S_ISGID or (entry.xattrs and DEFAULT_ACL.encode() in entry.xattrs):
            directory.inherits = True
        self._times[directory.path] = _times(entry)

    def _make_hard_link(self, entry: tar.Entry, parent: Directory, base: bytes) -> None:
        self._step = f'link to "{_text(entry.link)}"'
        target = _link_parts(entry.link)
        directory = b"/".join(target[:-1])
        source = self._places.get(directory, make=False)
        if source is not parent or target[-1] != base:
            try:
                os.link(target[-1], base, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
            except FileExistsError:
                self._replace(parent, base)
                source = self._places.get(directory, make=False)
                os.link(target[-1], base, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        self._step = "set owner and mode"
        self._amend_link(entry, parent, base)

    def _amend_link(self, entry: tar.Entry, parent: Directory, base: bytes) -> None:
        """The header of a hard link tells its inode's attributes too, mostly the same: chown would lose capabilities.

        A link to a symbolic link, or to anything else that is not a file, stays just that.
        """
        status = os.lstat(base, dir_fd=parent.fd)
        if not stat.S_ISREG(status.st_mode):
            return
        fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent.fd)
        try:
            same = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (entry.uid, entry.gid, entry.mode)
            if not same or entry.xattrs:
                self._set_attributes(fd, entry)
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _make_other(self, entry: tar.Entry, parent: Directory, base: bytes) -> None:
        """Links, fifos and devices are never opened, so their mode is given when they are made."""
        self._step = "create symbolic link" if entry.kind == tar.SYMBOLIC_LINK else "create special file"
        try:
            _make_node(entry, parent, base)
        except FileExistsError:
            self._replace(parent, base)
            _make_node(entry, parent, base)
        self._step = "set owner and times"
        os.chown(base, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        os.utime(base, ns=_times(entry), dir_fd=parent.fd, follow_symlinks=False)

    def _replace(self, parent: Directory, base: bytes) -> None:
        """Remove what is there. Names may have led through it, and times been noted for what was in it."""
        status = os.lstat(base, dir_fd=parent.fd)
        remove_tree(parent.fd, base)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            path = parent.path + (base,)
            self._places.forget_below(path)
            for gone in [known for known in self._times if known[: len(path)] == path]:
                del self._times[gone]

    def _made_parent(self, parent: Directory, base: bytes) -> None:
        """A directory that the layer has no entry for: as it is in the layers below, else 0755 and root's."""
        path = parent.path + (base,)
        if not self._overlay:
            self._remember(path)
        name = b"/".join(path)
        for lower in self._lowers:
            try:
                lower.trim()
                original = lower.get(name, make=False)
            except FileNotFoundError:
                continue
            except (OSError, InvalidArgument):
                return  # a file or a whiteout there: what is further below was replaced
            copy = os.open(base, OPEN_DIRECTORY, dir_fd=parent.fd)
            try:
                self._times[path] = _copy_attributes(original.fd, copy)
            finally:
                os.close(copy)
            return

    def _whiteout(self, entry: tar.Entry, parent: Directory, base: bytes) -> None:
        if base == _OPAQUE:
            self._step = "make its directory opaque"
            self.whiteouts += 1
            if self._overlay:
                self._make_opaque(parent)
            else:
                self._empty(parent)
            return
        if base.startswith(_META):
            self.ignored += 1  # AUFS' own bookkeeping
            return
        hidden = base[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArgument("not the name of a whiteout")
        self._step = "white out"
        self.whiteouts += 1
        if self._overlay:
            self._hide(parent, hidden, entry.uid, entry.gid)
        else:
            self._delete(parent, hidden)

    def _hide(self, parent: Directory, name: bytes, uid: int = 0, gid: int = 0) -> None:
        """For the kernel to see. What this layer has under the name hides what is below already, unless it is a
        directory."""
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent.fd)
            os.chown(name, uid, gid, dir_fd=parent.fd, follow_symlinks=False)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent.fd).st_mode):
                self._make_opaque(self._places.enter(parent, name))

    def _make_opaque(self, directory: Directory) -> None:
        if directory.path:
            os.setxattr(directory.fd, self._opaque_name, b"y")
        else:
            self._opaque_root = True  # the kernel does not look at the attribute there

    def _hide_lower_root(self) -> None:
        for lower in self._lowers:
            for name in os.listdir(lower.root.fd):
                self._hide(self._places.root, os.fsencode(name))

    def _delete(self, parent: Directory, name: bytes) -> None:
        """From a plain tree: what is from below goes, what this layer has stays."""
        if parent.path + (name,) in self._own:
            try:
                self._empty(self._places.enter(parent, name))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
            return
        try:
            self._replace(parent, name)
        except FileNotFoundError:
            return

    def _empty(self, directory: Directory) -> None:
        """Delete from a plain tree what is not this layer's own."""
        for text in os.listdir(directory.fd):
            name = os.fsencode(text)
            if directory.path + (name,) not in self._own:
                self._replace(directory, name)
            elif stat.S_ISDIR(os.lstat(name, dir_fd=directory.fd).st_mode):
                self._empty(self._places.enter(directory, name))


def _text(name: bytes) -> str:
    return name[: tar.MAX_NAME].decode("utf-8", "backslashreplace")


def _not_here(parent: Directory, name: bytes) -> None:
    raise FileNotFoundError(errno.ENOENT, "lower layers are only read")


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _times(entry: tar.Entry) -> tuple[int, int]:
    """Access and modification time; one the file system cannot hold becomes the epoch, as containerd has it."""
    modified = entry.mtime_ns if 0 <= entry.mtime_ns < 1 << 63 else 0
    accessed = modified if entry.atime_ns is None else max(entry.atime_ns, modified)
    return (accessed if accessed < 1 << 63 else 0, modified)


def _link_parts(name: bytes) -> list[bytes]:
    try:
        parts = split_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(f'link to "{_text(name)}": {error}') from error
    if not parts:
        raise InvalidArgument(f'link to "{_text(name)}": not a file')
    return parts


def _make_node(entry: tar.Entry, parent: Directory, base: bytes) -> None:
    if entry.kind == tar.SYMBOLIC_LINK:
        os.symlink(entry.link, base, dir_fd=parent.fd)
    elif entry.kind == tar.FIFO:
        os.mkfifo(base, entry.mode, dir_fd=parent.fd)
    else:
        if not (0 <= entry.major < 1 << 32 and 0 <= entry.minor < 1 << 32):
            raise InvalidArgument("not the number of a device")
        kind = stat.S_IFCHR if entry.kind == tar.CHARACTER else stat.S_IFBLK
        os.mknod(base, kind | entry.mode, os.makedev(entry.major, entry.minor), dir_fd=parent.fd)


def _set_xattr(fd: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def _copy_attributes(source: int, target: int) -> tuple[int, int]:
    """Owner, mode and extended attributes of a directory; its times, to be set when the target is filled."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not name.startswith(("trusted.", "user.overlay.")):
            _set_xattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    return status.st_atime_ns, status.st_mtime_ns
