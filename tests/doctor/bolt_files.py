"""Bolt databases made by hand: a writer of a few lines, for what the reader must take and what it must refuse."""

from __future__ import annotations

import struct

from portside.doctor.bolt import MAGIC, VERSION, fnv1a

PAGE = 4096
BRANCH, LEAF, META, FREE = 1, 2, 4, 16


class Writer:
    """Pages of one file; nested dictionaries become buckets."""

    def __init__(self, page_size: int = PAGE, per_leaf: int = 50) -> None:
        self.page_size, self.per_leaf = page_size, per_leaf
        self.pages: list[bytes] = [b"", b"", self.pad(struct.pack("<QHHI", 2, FREE, 0, 0))]

    def file(self, content: dict, transaction: int = 7) -> bytes:
        """The whole file with ``content`` in its root bucket."""
        root = self.bucket(content)
        for number in (0, 1):
            self.pages[number] = self.meta(number, root, transaction - 1 + number)
        return b"".join(self.pages)

    def meta(self, number: int, root: int, transaction: int, version: int = VERSION) -> bytes:
        high = sum(len(page) for page in self.pages[2:]) // self.page_size + 2
        fields = struct.pack("<IIIIQQQQQ", MAGIC, version, self.page_size, 0, root, 0, 2, high, transaction)
        return self.pad(struct.pack("<QHHI", number, META, 0, 0) + fields + struct.pack("<Q", fnv1a(fields)))

    def pad(self, page: bytes) -> bytes:
        return page.ljust(-(-len(page) // self.page_size) * self.page_size, b"\0")

    def bucket(self, content: dict) -> int:
        """Write it; its root page."""
        elements = [(key, *self.value(value)) for key, value in sorted(content.items())]
        groups = [elements[at : at + self.per_leaf] for at in range(0, len(elements), self.per_leaf)] or [[]]
        numbers = [(group[0][0] if group else b"", self.add(self.leaf(group))) for group in groups]
        while len(numbers) > 1:
            parts = [numbers[at : at + self.per_leaf] for at in range(0, len(numbers), self.per_leaf)]
            numbers = [(part[0][0], self.add(self.branch(part))) for part in parts]
        return numbers[0][1]

    def value(self, value: bytes | dict) -> tuple[int, bytes]:
        if isinstance(value, bytes):
            return 0, value
        flat = all(isinstance(each, bytes) for each in value.values())
        if flat and sum(len(key) + len(each) + 16 for key, each in value.items()) < self.page_size // 4:
            return 1, struct.pack("<QQ", 0, 0) + self.leaf([(key, 0, each) for key, each in sorted(value.items())])
        return 1, struct.pack("<QQ", self.bucket(value), 0)

    def leaf(self, elements: list[tuple[bytes, int, bytes]]) -> bytes:
        head, data = b"", b""
        for index, (key, flags, value) in enumerate(elements):
            position = (len(elements) - index) * 16 + len(data)
            head += struct.pack("<IIII", flags, position, len(key), len(value))
            data += key + value
        return struct.pack("<QHHI", 0, LEAF, len(elements), 0) + head + data

    def branch(self, children: list[tuple[bytes, int]]) -> bytes:
        head, data = b"", b""
        for index, (key, number) in enumerate(children):
            head += struct.pack("<IIQ", (len(children) - index) * 16 + len(data), len(key), number)
            data += key
        return struct.pack("<QHHI", 0, BRANCH, len(children), 0) + head + data

    def add(self, page: bytes) -> int:
        number = sum(len(each) for each in self.pages[2:]) // self.page_size + 2
        page = self.pad(page)
        flags, count = struct.unpack_from("<HH", page, 8)
        header = struct.pack("<QHHI", number, flags, count, len(page) // self.page_size - 1)
        self.pages.append(header + page[16:])
        return number
