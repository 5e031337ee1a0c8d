"""Reading bolt databases, which upstream containerd keeps its metadata in. Read-only, without trust in the file.

A file is pages of one size. Pages 0 and 1 are metas, written in turns: the valid one with the larger transaction id
counts. From its root page on, branch pages lead to leaf pages, whose elements are keys with values or with buckets;
a small bucket is *inline*, its one page being the value itself. The free list is not looked at.

    page        id u64, flags u16, count u16, overflow u32, then the elements; spans ``overflow`` further pages
    meta        magic u32, version u32, page size u32, flags u32, root page u64, sequence u64, free list u64,
                high-water page u64, transaction u64, FNV-1a 64 of all that
    branch      position u32, key size u32, page u64                    position: of the key, from the element on
    leaf        flags u32, position u32, key size u32, value size u32   flags 1: the value is a bucket
    bucket      root page u64 (0: inline), sequence u64, then the inline page

Whatever a file says, reading ends: levels are limited, and so is the number of elements that are read in all, since in
a sound file each takes space of its own. All faults are DataLoss that names the file and the page.

Source: go.etcd.io/bbolt, "Project structure" and the types of its pages. Not here: what containerd means by it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from portside.errors import DataLoss, FailedPrecondition, Unavailable, from_oserror

MAGIC, VERSION = 0xED0CDAED, 2
_BRANCH, _LEAF, _META = 1, 2, 4
_BUCKET = 1
_PAGE = struct.Struct("<QHHI")
_META_FIELDS = struct.Struct("<IIIIQQQQQQ")
_BRANCH_ELEMENT = struct.Struct("<IIQ")
_LEAF_ELEMENT = struct.Struct("<IIII")
_BUCKET_HEADER = struct.Struct("<QQ")
_PAGE_SIZES = tuple(1 << bits for bits in range(9, 17))
_ELEMENT = 16
MAX_LEVELS = 32
"""Branch pages on top of each other, and buckets within buckets; real files have a handful."""
_READS_PER_ELEMENT = 4
"""How often an element may be read, before the file must be one that leads in circles."""


class BoltFile:
    """An open database. ``close`` it, or use ``with``; buckets must not be used after that."""

    def __init__(self, path: Path) -> None:
        """NotFound; Unavailable while another process has it open for writing (bolt holds a flock); DataLoss;
        FailedPrecondition for a version of the format that is not known."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise from_oserror(error, f"open {path}") from error
        self._data: mmap.mmap | bytes = b""
        try:
            self._lock()
            size = os.fstat(self._fd).st_size
            self._data = mmap.mmap(self._fd, size, prot=mmap.PROT_READ) if size else b""
            self._left = (size // _ELEMENT + 64) * _READS_PER_ELEMENT
            self._page_size, self._high_water, root = self._meta()
            self.root = Bucket(self, root, 0)
            """The bucket that all others are in."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BoltFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap and unlock; a second time does nothing."""
        fd, self._fd = self._fd, -1
        data, self._data = self._data, b""
        if isinstance(data, mmap.mmap):
            data.close()
        if fd >= 0:
            os.close(fd)

    def damaged(self, what: str) -> DataLoss:
        """The error for a fault in this file."""
        return DataLoss(f"{self.path}: damaged: {what}")

    def page(self, number: int) -> bytes:
        """A page with its overflow."""
        start = number * self._page_size
        if not 2 <= number < self._high_water or start + _PAGE.size > len(self._data):
            raise self.damaged(f"page {number} is not there")
        found, _, _, overflow = _PAGE.unpack_from(self._data, start)
        end = start + (overflow + 1) * self._page_size
        if found != number or end > len(self._data) or number + overflow >= self._high_water:
            raise self.damaged(f"page {number} has the header of page {found} over {overflow + 1} pages")
        return bytes(self._data[start:end])

    def spend(self, elements: int) -> None:
        """Account for reading ``elements``; DataLoss if that cannot be in a sound file of this size."""
        self._left -= elements
        if self._left < 0:
            raise self.damaged("its pages lead in circles")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"{self.path}: another process has it open; stop containerd first") from None

    def _meta(self) -> tuple[int, int, int]:
        """Page size, high-water page and root page of the newest meta that is whole."""
        best: tuple[int, int, int, int] | None = None
        versions: set[int] = set()
        for start in (0, *_PAGE_SIZES):
            found = self._meta_at(start, versions)
            if found is not None and (best is None or found > best):
                best = found
        if best is not None:
            return best[1:]
        if versions - {VERSION}:
            raise FailedPrecondition(f"{self.path}: bolt format {max(versions)} is not known; only {VERSION} is")
        raise self.damaged("no whole meta page; it is no bolt database, or was cut off")

    def _meta_at(self, start: int, versions: set[int]) -> tuple[int, int, int, int] | None:
        if start + _PAGE.size + _META_FIELDS.size > len(self._data):
            return None
        flags = _PAGE.unpack_from(self._data, start)[1]
        at = start + _PAGE.size
        magic, version, page_size, _, root, _, _, high, transaction, checksum = _META_FIELDS.unpack_from(self._data, at)
        if magic != MAGIC or not flags & _META or checksum != fnv1a(bytes(self._data[at : at + _META_FIELDS.size - 8])):
            return None
        versions.add(version)
        if version != VERSION or page_size not in _PAGE_SIZES or start not in (0, page_size):
            return None
        return transaction, page_size, high, root


class Bucket:
    """Keys with values or further buckets; read whole at the first use."""

    def __init__(self, file: BoltFile, root: int, level: int, inline: bytes | None = None) -> None:
        self._file, self._root, self._level, self._inline = file, root, level, inline
        self._elements: dict[bytes, bytes | Bucket] | None = None
        if level > MAX_LEVELS:
            raise file.damaged(f"more than {MAX_LEVELS} buckets in each other")

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """All elements by key."""
        return iter(self._all().items())

    def value(self, key: str) -> bytes:
        """The value of ``key``; empty without one."""
        found = self._all().get(key.encode())
        return found if isinstance(found, bytes) else b""

    def text(self, key: str) -> str:
        """The value of ``key`` as text; DataLoss if it is none."""
        return _text(self._file, self.value(key), key)

    def bucket(self, *path: str) -> Bucket | None:
        """The bucket under ``path``; None if there is none."""
        found: Bucket | None = self
        for key in path:
            element = found._all().get(key.encode()) if found is not None else None
            found = element if isinstance(element, Bucket) else None
        return found

    def buckets(self, *path: str) -> Iterator[tuple[str, Bucket]]:
        """The buckets in the one under ``path``, by key."""
        parent = self.bucket(*path)
        for key, element in parent.items() if parent is not None else ():
            if isinstance(element, Bucket):
                yield _text(self._file, key, "a key"), element

    def texts(self, *path: str) -> dict[str, str]:
        """The keys and values of the bucket under ``path``, as text."""
        found = self.bucket(*path)
        elements = found.items() if found is not None else ()
        return {
            _text(self._file, key, "a key"): _text(self._file, value, "a value")
            for key, value in elements
            if isinstance(value, bytes)
        }

    def _all(self) -> dict[bytes, bytes | Bucket]:
        if self._elements is None:
            elements: dict[bytes, bytes | Bucket] = {}
            if self._inline is not None:
                self._leaf(self._inline, "an inline page", elements)
            else:
                self._page(self._root, 0, elements)
            self._elements = elements
        return self._elements

    def _page(self, number: int, depth: int, elements: dict[bytes, bytes | Bucket]) -> None:
        page = self._file.page(number)
        flags, count = _PAGE.unpack_from(page)[1:3]
        if flags & _LEAF:
            self._leaf(page, f"page {number}", elements)
            return
        if not flags & _BRANCH or depth > MAX_LEVELS:
            raise self._file.damaged(f"page {number} is neither branch nor leaf, or too deep")
        self._file.spend(count + 1)
        if _PAGE.size + count * _ELEMENT > len(page):
            raise self._file.damaged(f"page {number}: {count} elements do not fit")
        for index in range(count):
            self._page(_BRANCH_ELEMENT.unpack_from(page, _PAGE.size + index * _ELEMENT)[2], depth + 1, elements)

    def _leaf(self, page: bytes, name: str, elements: dict[bytes, bytes | Bucket]) -> None:
        if len(page) < _PAGE.size:
            raise self._file.damaged(f"{name} is too short")
        flags, count = _PAGE.unpack_from(page)[1:3]
        if not flags & _LEAF:
            raise self._file.damaged(f"{name} is not a leaf")
        self._file.spend(count + 1)
        content = _PAGE.size + count * _ELEMENT
        for index in range(count):
            start = _PAGE.size + index * _ELEMENT
            if start + _ELEMENT > len(page):
                raise self._file.damaged(f"{name}: element {index} is not in it")
            kind, position, key_size, value_size = _LEAF_ELEMENT.unpack_from(page, start)
            at = start + position
            if at < content or at + key_size + value_size > len(page):
                raise self._file.damaged(f"{name}: element {index} reaches out of it")
            key, value = page[at : at + key_size], page[at + key_size : at + key_size + value_size]
            elements[key] = self._bucket(value, name) if kind & _BUCKET else value

    def _bucket(self, value: bytes, name: str) -> Bucket:
        if len(value) < _BUCKET_HEADER.size:
            raise self._file.damaged(f"{name}: a bucket without a header")
        root, _ = _BUCKET_HEADER.unpack_from(value)
        return Bucket(self._file, root, self._level + 1, None if root else value[_BUCKET_HEADER.size :])


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash, which metas carry."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _text(file: BoltFile, data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise file.damaged(f"{what} is not text: {data[:40]!r}") from error
