"""Reading tar archives: bytes in, entries and their data out. No IO, no clock, no file system.

Formats, as POSIX pax(1) ("ustar Interchange Format", "pax Interchange Format") and GNU tar's manual ("Basic Tar
Format") have them: v7, ustar with its prefix, pax extended headers (path, linkpath, size, uid, gid, mtime, atime,
``SCHILY.xattr.…``), GNU long names and links, GNU base-256 numbers. Global pax headers are read over, as containerd
does: what writes them (git archive) puts comments there. GNU sparse files, old and pax, are refused (Unimplemented):
their data is not the file's, and no builder of images makes them.

::

    parser = TarParser()
    parser.feed(data)                 # or feed(b"") at the end of the stream
    while (event := parser.next_event()) is not None:
        …                             # an Entry, or a memoryview with a part of the latest entry's data

Whatever an archive can make large has a limit here; all faults are InvalidArgument, an early end is DataLoss. Imported
by layer workers: standard library only, and cheap.
"""

from __future__ import annotations

from zlib import adler32

from portside.errors import DataLoss, InvalidArgument, Unimplemented

BLOCK = 512
MAX_EXTENDED = 1 << 20
"""Bytes of one pax extended header, or of a GNU long name record."""
MAX_NAME = 4096
"""Bytes of a name or a link's target: Linux' PATH_MAX."""
MAX_SIZE = 1 << 62

REGULAR, HARD_LINK, SYMBOLIC_LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_WITHOUT_DATA = frozenset({HARD_LINK, SYMBOLIC_LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_KINDS = _WITHOUT_DATA | {REGULAR}
_AS_REGULAR = frozenset({b"\0", b"7"})
_XATTR = b"SCHILY.xattr."
_ZEROS = bytes(BLOCK)


class Entry:
    """One member: ``name`` and ``link`` are bytes as they came, times nanoseconds, ``mode`` the permission bits."""

    __slots__ = (
        "atime_ns",
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(self, name: bytes, kind: bytes) -> None:
        self.name = name
        self.kind = kind
        self.mode = 0
        self.uid = self.gid = 0
        self.size = 0
        self.mtime_ns = 0
        self.atime_ns: int | None = None
        self.link = b""
        self.major = self.minor = 0
        self.xattrs: dict[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.kind!r}, {self.size})"


class TarParser:
    """One archive. ``feed`` it, then take events until there is None; ``ended`` once the end was seen."""

    def __init__(self) -> None:
        self.entries = 0
        self.ended = False
        self.complete = False
        """The two blocks of zeros that end an archive were there, not just the end of the stream."""
        self._buffer = b""
        self._position = 0
        self._eof = False
        self._data_left = 0
        self._skip = 0
        self._extended: dict[bytes, bytes] = {}
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._collecting: tuple[bytes, int] | None = None
        self._seen_zeros = False
        self.label = ""

    def feed(self, data: bytes) -> None:
        """Take the next part of the stream; empty at its end."""
        if not data:
            self._eof = True
        elif self._position < len(self._buffer):
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
        else:
            self._buffer = data
            self._position = 0

    def next_event(self) -> Entry | memoryview | None:
        """The next entry or part of its data; None when more must be fed, or the archive has ended."""
        while True:
            available = len(self._buffer) - self._position
            if self._data_left:
                if available:
                    return self._take_data(available)
                self._wait("data")
                return None
            if self._skip:
                step = min(self._skip, available)
                self._skip -= step
                self._position += step
                if self._skip:
                    self._wait("padding")
                    return None
                continue
            if self.ended:
                self._position = len(self._buffer)
                return None
            if self._collecting is not None:
                if available < self._collecting[1]:
                    self._wait("an extended header")
                    return None
                self._collect()
                continue
            if available < BLOCK:
                self._wait_for_header(available)
                return None
            entry = self._header()
            if entry is not None:
                self.entries += 1
                return entry

    def _take_data(self, available: int) -> memoryview:
        size = min(available, self._data_left)
        start = self._position
        self._position = start + size
        self._data_left -= size
        return memoryview(self._buffer)[start : start + size]

    def _wait(self, inside: str) -> None:
        if self._eof:
            raise DataLoss(f"the archive ends inside {inside} of entry {self._where()}")

    def _wait_for_header(self, available: int) -> None:
        if self._eof:
            if available or self._extended or self._long_name is not None:
                raise DataLoss(f"the archive ends inside a header, after entry {self._where()}")
            self.ended = True

    def _where(self) -> str:
        return f'"{self.label}"' if self.label else f"{self.entries + 1}"

    def _header(self) -> Entry | None:
        start = self._position
        block = self._buffer[start : start + BLOCK]
        self._position = start + BLOCK
        if block == _ZEROS:
            if self._seen_zeros:
                self.ended = self.complete = True
            self._seen_zeros = True
            return None
        if self._seen_zeros or not _checksum_fits(block):
            raise InvalidArgument(f"not a tar header after entry {self._where()}")
        kind = block[156:157]
        size = _number(block[124:136], "size")
        if kind in (b"x", b"g", b"X", b"L", b"K"):
            if not 0 <= size <= MAX_EXTENDED:
                raise InvalidArgument(
                    f"extended header after entry {self._where()}: {size} bytes, more than {MAX_EXTENDED}"
                )
            self._collecting = (kind, size)
            return None
        return self._entry(block, kind, size)

    def _collect(self) -> None:
        assert self._collecting is not None
        kind, size = self._collecting
        self._collecting = None
        start = self._position
        data = self._buffer[start : start + size]
        self._position = start + size
        self._skip = -size % BLOCK
        if kind == b"L":
            self._long_name = data.partition(b"\0")[0]
        elif kind == b"K":
            self._long_link = data.partition(b"\0")[0]
        elif kind != b"g":
            self._extended = parse_pax(data)

    def _entry(self, block: bytes, kind: bytes, size: int) -> Entry:
        name = block[:100].partition(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345:346] != b"\0":
            prefix = block[345 : 476 if block[508:512] == b"tar\0" else 500].partition(b"\0")[0]
            name = prefix + b"/" + name
        if kind in _AS_REGULAR:
            kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else REGULAR
        entry = Entry(name, kind)
        entry.mode = _number(block[100:108], "mode") & 0o7777
        entry.uid = _number(block[108:116], "uid")
        entry.gid = _number(block[116:124], "gid")
        entry.mtime_ns = _number(block[136:148], "mtime") * 1_000_000_000
        entry.size = size
        if kind in (HARD_LINK, SYMBOLIC_LINK):
            entry.link = block[157:257].partition(b"\0")[0]
        elif kind in (CHARACTER, BLOCK_DEVICE):
            entry.major = _number(block[329:337], "device number")
            entry.minor = _number(block[337:345], "device number")
        self._amend(entry)
        if entry.kind in _WITHOUT_DATA:
            entry.size = 0
        self._data_left = entry.size
        self._skip = -entry.size % BLOCK
        return entry

    def _amend(self, entry: Entry) -> None:
        """Put in what headers before this one said about it, then check the whole."""
        if self._long_name is not None:
            entry.name, self._long_name = self._long_name, None
        if self._long_link is not None:
            entry.link, self._long_link = self._long_link, None
        if self._extended:
            _apply_pax(entry, self._extended)
            self._extended = {}
        self.label = entry.name[:MAX_NAME].decode("utf-8", "backslashreplace")
        if entry.kind not in _KINDS:
            if entry.kind == b"S":
                raise Unimplemented(f'entry "{self.label}": GNU sparse files are not supported')
            raise InvalidArgument(f'entry "{self.label}": type {entry.kind!r} is not known')
        if len(entry.name) > MAX_NAME or len(entry.link) > MAX_NAME:
            raise InvalidArgument(f'entry "{self.label[:200]}…": a name or link longer than {MAX_NAME} bytes')
        if not 0 <= entry.size <= MAX_SIZE:
            raise InvalidArgument(f'entry "{self.label}": size {entry.size} is not a length')
        if not (0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32):
            raise InvalidArgument(f'entry "{self.label}": owner {entry.uid}:{entry.gid} is not a pair of ids')


def _checksum_fits(block: bytes) -> bool:
    """The header's sum of bytes, its own field taken as blanks. Very old archives summed signed bytes."""
    field = block[148:156]
    try:
        stored = _number(field, "checksum")
    except InvalidArgument:
        return False
    # The lower half of Adler-32 is one more than the sum of the bytes modulo 65521, and is had without a loop.
    if (stored + sum(field) - 256 + 1 - (adler32(block) & 0xFFFF)) % 65521 == 0:
        return True
    blank = block[:148] + b" " * 8 + block[156:]
    return stored == sum(byte - 256 if byte > 127 else byte for byte in blank)


def _number(field: bytes, what: str) -> int:
    """Octal digits among blanks and zeros, or GNU's base-256 (first bit set, two's complement)."""
    text = field.rstrip(b"\0 ")
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError:
            pass
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
        bits = len(field) * 8 - 2
        return value - (1 << (bits + 1)) if field[0] & 0x40 else value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if text.isdigit() and not text.strip(b"01234567"):
        return int(text, 8)
    raise InvalidArgument(f"tar header: {what} {field!r} is not a number")


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records ``length key=value\\n`` of an extended header; later ones win. InvalidArgument for odd ones."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 8)
        digits = data[position:blank] if blank > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        if not blank + 2 < end <= len(data) or data[end - 1] != 0x0A:
            raise InvalidArgument("extended header: a record's length does not fit")
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise InvalidArgument("extended header: a record is not key=value")
        records[key] = value
        position = end
    return records


def _apply_pax(entry: Entry, records: dict[bytes, bytes]) -> None:
    for key, value in records.items():
        if key in (b"path", b"linkpath"):
            if b"\0" in value:
                raise InvalidArgument(f"extended header: {key.decode()} has a zero byte")
            if value:
                setattr(entry, "name" if key == b"path" else "link", value)
        elif key in (b"size", b"uid", b"gid"):
            if not value.isdigit() or len(value) > 20:
                raise InvalidArgument(f"extended header: {key.decode()} {value[:40]!r} is not a number")
            setattr(entry, key.decode(), int(value))
        elif key == b"mtime":
            entry.mtime_ns = _pax_time(value)
        elif key == b"atime":
            entry.atime_ns = _pax_time(value)
        elif key.startswith(_XATTR):
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs[key[len(_XATTR) :]] = value
        elif key.startswith(b"GNU.sparse."):
            label = entry.name[:MAX_NAME].decode("utf-8", "backslashreplace")
            raise Unimplemented(f'entry "{label}": GNU sparse files are not supported')


def _pax_time(value: bytes) -> int:
    """Decimal seconds as nanoseconds, cut towards the past."""
    whole, _, fraction = value.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 18 or (fraction and not fraction.isdigit()):
        raise InvalidArgument(f"extended header: time {value[:40]!r} is not a number")
    nanoseconds = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if value.startswith(b"-") else nanoseconds
