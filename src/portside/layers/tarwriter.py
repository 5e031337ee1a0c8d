"""Writing tar archives: an entry to the bytes of its header. No IO. The other direction is ``tar``.

ustar where it suffices; a pax extended header (POSIX pax(1)) for what it cannot hold: long names, names that are not
ASCII, large numbers, fractions of seconds, extended attributes. The same entry always gives the same bytes.
"""

from __future__ import annotations

from portside.layers.tar import BLOCK, CHARACTER, Entry

_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_KINDS_WITH_DEVICE = frozenset({CHARACTER, b"4"})
END = bytes(2 * BLOCK)


def header(entry: Entry) -> bytes:
    """Everything that stands before the entry's data."""
    records = _records(entry)
    block = _block(entry.name, entry.kind, entry)
    if not records:
        return block
    text = b"".join(_record(key, records[key]) for key in sorted(records))
    extended = Entry(b"PaxHeaders.0/" + _cut(entry.name.rstrip(b"/").rpartition(b"/")[2]), b"x")
    extended.mode, extended.size = 0o644, len(text)
    return _block(extended.name, b"x", extended) + text + padding(len(text)) + block


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of data."""
    return bytes(-size % BLOCK)


def _records(entry: Entry) -> dict[bytes, bytes]:
    records = {b"SCHILY.xattr." + name: value for name, value in (entry.xattrs or {}).items()}
    if len(entry.name) > 100 or not entry.name.isascii():
        records[b"path"] = entry.name
    if len(entry.link) > 100 or not entry.link.isascii():
        records[b"linkpath"] = entry.link
    for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if value > _OCTAL_7:
            records[key] = b"%d" % value
    if entry.size > _OCTAL_11:
        records[b"size"] = b"%d" % entry.size
    seconds, fraction = divmod(entry.mtime_ns, 1_000_000_000)
    if fraction or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = _time(entry.mtime_ns)
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, the length counting its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    return b"%s%d" % (sign, seconds) + (b".%09d" % fraction).rstrip(b"0") if fraction else b"%s%d" % (sign, seconds)


def _cut(name: bytes) -> bytes:
    """For fields that a pax record overrides: old readers see something, in ASCII."""
    return bytes(byte if 32 <= byte < 127 else 0x5F for byte in name[:80])


def _block(name: bytes, kind: bytes, entry: Entry) -> bytes:
    block = bytearray(BLOCK)
    field = name if len(name) <= 100 and name.isascii() else _cut(name)
    link = entry.link if len(entry.link) <= 100 and entry.link.isascii() else _cut(entry.link)
    block[0 : len(field)] = field
    block[100:108] = b"%07o\0" % (entry.mode & 0o7777)
    block[108:116] = b"%07o\0" % min(entry.uid, _OCTAL_7)
    block[116:124] = b"%07o\0" % min(entry.gid, _OCTAL_7)
    block[124:136] = b"%011o\0" % (entry.size if entry.size <= _OCTAL_11 else 0)
    seconds = entry.mtime_ns // 1_000_000_000
    block[136:148] = b"%011o\0" % (seconds if 0 <= seconds <= _OCTAL_11 else 0)
    block[148:156] = b"        "
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    if kind in _KINDS_WITH_DEVICE:
        block[329:337] = b"%07o\0" % min(entry.major, _OCTAL_7)
        block[337:345] = b"%07o\0" % min(entry.minor, _OCTAL_7)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
