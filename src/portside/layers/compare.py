"""What one tree changes over another, as a layer (OCI image-spec, layer.md, "Representing Changes"); runs in a layer
worker.

Both trees are stacks of directories (``stack``), so snapshots of every driver that keeps directories can be compared
without a mount. Where the two stacks hold the same directories nothing can differ, which leaves the upper directory
alone to look at in the usual case. A removed name becomes ``.wh.name``; an opaque directory comes out as a whiteout
for each name it hides.

The order is that of names as bytes, the header has no access or change times and no names of users, so equal trees
give equal bytes. Two files are the same if they are one inode, or owner, mode, size, attributes and time are equal and
that time has a fraction; without one (it may have been cut) their bytes are compared.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from portside.errors import from_oserror
from portside.layers import compression, tar
from portside.layers.stack import Merged, Node
from portside.layers.tarwriter import END, header, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Compressor(Protocol):
        """zlib's interface, which all have."""

        def compress(self, data: bytes, /) -> bytes:
            """Some of the output."""
            ...

        def flush(self) -> bytes:
            """The rest of it."""
            ...


_PART = 1 << 20
_GZIP_LEVEL = 3  # isal's best
_ZSTD_LEVEL = 3
_WHITEOUT = b".wh."


class LayerOutput:
    """The archive's way out: hashed, compressed, hashed again, written to a descriptor that stays the caller's."""

    def __init__(self, fd: int, kind: str) -> None:
        self._fd = fd
        self._compressor = _compressor(kind)
        self._plain = hashlib.sha256()
        self._packed = hashlib.sha256()
        self.plain_size = self.packed_size = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes of the archive."""
        self._plain.update(data)
        self.plain_size += len(data)
        self._send(self._compressor.compress(data) if self._compressor is not None else data)

    def finish(self) -> dict[str, str | int]:
        """The archive is complete: digests and sizes of both forms."""
        self.write(END)
        if self._compressor is not None:
            self._send(self._compressor.flush())
        return {
            "diff_id": "sha256:" + self._plain.hexdigest(), "diff_size": self.plain_size,
            "digest": "sha256:" + self._packed.hexdigest(), "size": self.packed_size,
        }  # fmt: skip

    def _send(self, data: bytes) -> None:
        self._packed.update(data)
        self.packed_size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def _compressor(kind: str) -> Compressor | None:
    if kind == compression.GZIP:
        from isal import isal_zlib

        gzip: Compressor = isal_zlib.compressobj(level=_GZIP_LEVEL, wbits=31)
        return gzip
    if kind == compression.ZSTD:
        import zstandard

        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    return None


class Comparison:
    """One comparison. ``epoch_ns`` caps the times of what is written and is the time of whiteouts."""

    def __init__(self, output: LayerOutput, epoch_ns: int | None = None) -> None:
        self._output = output
        self._epoch = epoch_ns
        self._linked: dict[tuple[int, int], bytes] = {}
        self._path = b""
        self.entries = 0

    def run(self, lower: Sequence[int], upper: Sequence[int]) -> None:
        """Write the changes between the stacks (descriptors, top first; an empty one is an empty tree)."""
        below, above = Merged.of(lower), Merged.of(upper)
        try:
            self._directory(below, above, b"", [])
        except OSError as error:
            raise from_oserror(error, f'read "{_text(self._path)}"') from error
        finally:
            below.close()
            above.close()

    def _directory(self, below: Merged | None, above: Merged, path: bytes, parents: list[tuple[bytes, Node]]) -> None:
        """Children of one directory; ``parents`` are the unchanged directories not written yet, outermost first."""
        if below is not None and below.identity == above.identity:
            return
        old = below.names() if below is not None else {}
        new = above.names()
        for name in sorted(old.keys() | new.keys()):
            self._path = path + name
            if name not in new:
                self._flush(parents)
                self._whiteout(path, name)
            elif new[name].is_directory:
                self._subdirectory(below, above, old.get(name), new[name], path, parents)
            elif name not in old or not _same(old[name], new[name]):
                self._flush(parents)
                self._write(path + name, new[name])

    def _subdirectory(
        self, below: Merged | None, above: Merged, old: Node | None, new: Node, path: bytes,
        parents: list[tuple[bytes, Node]],
    ) -> None:  # fmt: skip
        name = new.name
        waiting = [*parents, (path + name, new)]
        if old is None or not old.is_directory or not _same(old, new):
            self._flush(waiting)
            waiting = []
        inner_below = below.enter(name) if below is not None and old is not None and old.is_directory else None
        try:
            inner_above = above.enter(name)
            try:
                self._directory(inner_below, inner_above, path + name + b"/", waiting)
            finally:
                inner_above.close()
        finally:
            if inner_below is not None:
                inner_below.close()
        if len(waiting) <= len(parents):
            parents.clear()  # they were written with a child of ours

    def _flush(self, parents: list[tuple[bytes, Node]]) -> None:
        for path, node in parents:
            self._write(path, node)
        parents.clear()

    def _whiteout(self, path: bytes, name: bytes) -> None:
        entry = tar.Entry(path + _WHITEOUT + name, tar.REGULAR)
        entry.mtime_ns = self._epoch or 0
        self._emit(entry)

    def _emit(self, entry: tar.Entry) -> None:
        self.entries += 1
        self._output.write(header(entry))

    def _write(self, path: bytes, node: Node) -> None:
        status = node.status
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket
        entry = tar.Entry(path, kind)
        entry.mode, entry.uid, entry.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        entry.mtime_ns = status.st_mtime_ns if self._epoch is None else min(status.st_mtime_ns, self._epoch)
        if kind != tar.DIRECTORY and status.st_nlink > 1:
            first = self._linked.setdefault(node.identity, path)
            if first is not path:
                entry.kind, entry.link = tar.HARD_LINK, first
                self._emit(entry)
                return
        if kind == tar.REGULAR:
            self._write_file(entry, node)
            return
        if kind == tar.DIRECTORY:
            entry.name += b"/"
            entry.xattrs = _attributes_of(node)
        elif kind == tar.SYMBOLIC_LINK:
            entry.link = os.readlink(node.name, dir_fd=node.fd)
        elif kind != tar.FIFO:
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._emit(entry)

    def _write_file(self, entry: tar.Entry, node: Node) -> None:
        """Exactly as many bytes as the header says, though the file may change meanwhile."""
        fd = node.open()
        try:
            entry.size = os.fstat(fd).st_size
            entry.xattrs = _attributes(fd)
            self._emit(entry)
            left = entry.size
            while left:
                data = os.read(fd, min(left, _PART)) or bytes(min(left, _PART))
                self._output.write(data)
                left -= len(data)
            self._output.write(padding(entry.size))
        finally:
            os.close(fd)


_KINDS = {
    stat.S_IFREG: tar.REGULAR, stat.S_IFDIR: tar.DIRECTORY, stat.S_IFLNK: tar.SYMBOLIC_LINK, stat.S_IFIFO: tar.FIFO,
    stat.S_IFCHR: tar.CHARACTER, stat.S_IFBLK: tar.BLOCK_DEVICE,
}  # fmt: skip


def _same(old: Node, new: Node) -> bool:
    if old.identity == new.identity:
        return True
    a, b = old.status, new.status
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev, a.st_mtime_ns) != (
        b.st_mode, b.st_uid, b.st_gid, b.st_rdev, b.st_mtime_ns,
    ):  # fmt: skip
        return False
    if stat.S_ISLNK(a.st_mode):
        return os.readlink(old.name, dir_fd=old.fd) == os.readlink(new.name, dir_fd=new.fd)
    if stat.S_ISDIR(a.st_mode):
        return _attributes_of(old) == _attributes_of(new)
    if not stat.S_ISREG(a.st_mode):
        return True
    if a.st_size != b.st_size or _attributes_of(old) != _attributes_of(new):
        return False
    return a.st_mtime_ns % 1_000_000_000 != 0 or _same_bytes(old, new)


def _same_bytes(old: Node, new: Node) -> bool:
    first, second = old.open(), -1
    try:
        second = new.open()
        while True:
            data = os.read(first, _PART)
            if data != os.read(second, _PART):
                return False
            if not data:
                return True
    finally:
        os.close(first)
        if second >= 0:
            os.close(second)


def _attributes_of(node: Node) -> dict[bytes, bytes] | None:
    fd = node.open()
    try:
        return _attributes(fd)
    finally:
        os.close(fd)


def _attributes(fd: int) -> dict[bytes, bytes] | None:
    """File capabilities and users' own attributes; the others belong to this machine."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
    kept = [
        name
        for name in names
        if name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay."))
    ]
    return {os.fsencode(name): os.getxattr(fd, name) for name in kept} or None


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
