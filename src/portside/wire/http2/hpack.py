"""Header compression (RFC 7541): a decoder with its dynamic table, and an encoder that keeps none.

The encoder uses the static table and literals that are not indexed. That is legal for every peer, makes a block a
constant that can be prepared once and sent on any connection, and lets the receiver recognise it. The decoder gives
the same ``Headers`` object for a block that it has seen before, as long as the dynamic table has not changed.
"""

from __future__ import annotations

from collections import deque

from portside.wire.http2 import huffman
from portside.wire.http2.errors import COMPRESSION_ERROR, RemoteProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Field = tuple[bytes, bytes]

# RFC 7541, Appendix A
STATIC: tuple[Field, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
_FIELD_INDEX: dict[Field, int] = {}
_NAME_INDEX: dict[bytes, int] = {}
for _index, _field in enumerate(STATIC, 1):
    _FIELD_INDEX.setdefault(_field, _index)
    _NAME_INDEX.setdefault(_field[0], _index)

FIELD_OVERHEAD = 32
"""What an entry costs besides its text (RFC 7541, section 4.1)."""

NO_TABLE = b"\x20"
"""Dynamic table size update to 0: our encoder's first word on a connection; no later SETTINGS needs an answer then."""

_MAX_INTEGER = 1 << 28
_MAX_CACHED = 128
_MAX_CACHED_BLOCK = 2048

NEVER_INDEXED = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))
"""Fields that intermediaries must not put into a table either (RFC 7541, section 7.1.3)."""


class Headers:
    """A decoded header list. Never changed once made: the same object may come again.

    ``memo`` belongs to the layer above, for what it made of these fields; ``checked`` and ``content_length`` belong
    to ``headers.check``.
    """

    __slots__ = ("checked", "content_length", "fields", "memo", "size")

    def __init__(self, fields: tuple[Field, ...], size: int) -> None:
        self.fields = fields
        """Name and value of each field, in order, repetitions kept."""
        self.size = size
        """By the count of RFC 9113, section 6.5.2. A list beyond the limit is cut: ``fields`` is not all then."""
        self.checked = 0
        self.content_length = -1
        self.memo: Any = None

    def get(self, name: bytes) -> bytes | None:
        """Value of the first field called ``name`` (lower case)."""
        for key, value in self.fields:
            if key == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"Headers({self.fields!r})"


class Decoder:
    """The receiving side of one direction of a connection. All errors are COMPRESSION_ERRORs of the connection."""

    def __init__(self, table_size: int = 4096, max_list_size: int = 64 << 10) -> None:
        self.max_table_size = max(table_size, 4096)
        """What the peer's encoder may use; as long as it has not acknowledged our SETTINGS, at least the default."""
        self._max_list_size = max_list_size
        self._table: deque[Field] = deque()
        self._table_size = 0
        self._limit = 4096
        self._must_shrink = False
        self.seen: dict[bytes, Headers] = {}
        """Blocks decoded while the dynamic table was as it is now."""

    def allow(self, table_size: int) -> None:
        """The peer has acknowledged this SETTINGS_HEADER_TABLE_SIZE: its next block must fit it (section 4.2)."""
        self.max_table_size = table_size
        if self._limit > table_size:
            self._must_shrink = True
            self.seen.clear()

    def decode(self, block: bytes) -> Headers:
        """The header list of one whole block."""
        seen = self.seen.get(block)
        if seen is not None:
            return seen
        try:
            fields, size, changed = self._fields(block)
        except IndexError:
            raise RemoteProtocolError("a header block that ends in the middle", COMPRESSION_ERROR) from None
        headers = Headers(tuple(fields), size)
        if changed:
            self.seen.clear()
        elif len(block) <= _MAX_CACHED_BLOCK:
            if len(self.seen) >= _MAX_CACHED:
                self.seen.clear()
            self.seen[block] = headers
        return headers

    def _fields(self, block: bytes) -> tuple[list[Field], int, bool]:
        """The fields that fit the limit, the size of all, and whether the dynamic table has changed."""
        fields: list[Field] = []
        offset = size = 0
        changed = False
        updates = True  # size updates are allowed only at the start (section 4.2)
        while offset < len(block):
            first = block[offset]
            if first & 0x80:  # indexed (section 6.1)
                index, offset = _integer(block, offset, 0x7F)
                field = self._entry(index)
            elif first & 0x40:  # literal with incremental indexing (section 6.2.1)
                field, offset = self._literal(block, offset, 0x3F)
                self._add(field)
                changed = True
            elif first & 0x20:  # size update (section 6.3)
                if not updates:
                    raise RemoteProtocolError("a table size update after a field", COMPRESSION_ERROR)
                new, offset = _integer(block, offset, 0x1F)
                self._resize(new)
                changed = True
                continue
            else:  # literal without indexing or never indexed (sections 6.2.2, 6.2.3)
                field, offset = self._literal(block, offset, 0x0F)
            if updates:
                updates = False
                if self._must_shrink:
                    raise RemoteProtocolError("the dynamic table was not made smaller", COMPRESSION_ERROR)
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
            if size <= self._max_list_size:  # beyond it decode on, to stay in step, but keep nothing
                fields.append(field)
        return fields, size, changed

    def _entry(self, index: int) -> Field:
        if 0 < index <= 61:
            return STATIC[index - 1]
        if index and index - 62 < len(self._table):
            return self._table[index - 62]
        raise RemoteProtocolError(f"no entry {index} in the header tables", COMPRESSION_ERROR)

    def _literal(self, block: bytes, offset: int, mask: int) -> tuple[Field, int]:
        index, offset = _integer(block, offset, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, offset = _string(block, offset)
        value, offset = _string(block, offset)
        return (name, value), offset

    def _add(self, field: Field) -> None:
        """Put ``field`` in front; what no longer fits falls off the end, all of it where ``field`` is too large."""
        self._table_size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
        self._table.appendleft(field)
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > self.max_table_size:
            raise RemoteProtocolError(f"a dynamic table of {limit} bytes", COMPRESSION_ERROR)
        self._limit = limit
        self._must_shrink = False
        self._evict()

    def _evict(self) -> None:
        while self._table_size > self._limit:
            name, value = self._table.pop()
            self._table_size -= len(name) + len(value) + FIELD_OVERHEAD


def _integer(block: bytes, offset: int, mask: int) -> tuple[int, int]:
    """An integer with a prefix as wide as ``mask`` (section 5.1), and the offset after it."""
    value = block[offset] & mask
    offset += 1
    if value < mask:
        return value, offset
    shift = 0
    while True:
        byte = block[offset]
        offset += 1
        value += (byte & 0x7F) << shift
        if value > _MAX_INTEGER or shift > 28:
            raise RemoteProtocolError("an integer too large in a header block", COMPRESSION_ERROR)
        if byte < 0x80:
            return value, offset
        shift += 7


def _string(block: bytes, offset: int) -> tuple[bytes, int]:
    """A string literal (section 5.2), and the offset after it."""
    coded = block[offset] & 0x80
    length, offset = _integer(block, offset, 0x7F)
    end = offset + length
    if end > len(block):
        raise IndexError
    text = block[offset:end]
    if coded:
        try:
            text = huffman.decode(text)
        except ValueError as error:
            raise RemoteProtocolError(str(error), COMPRESSION_ERROR) from None
    return text, end


def encode(fields: Iterable[Field]) -> bytes:
    """One block of these fields, the same for every connection. Names must be lower case."""
    parts = []
    for field in fields:
        index = _FIELD_INDEX.get(field)
        if index is not None and field[1]:
            parts.append(bytes((0x80 | index,)))
            continue
        name, value = field
        first = 0x10 if name in NEVER_INDEXED else 0
        index = _NAME_INDEX.get(name)
        if index is not None:
            parts.append(_prefixed(first, 0x0F, index))
        else:
            parts += (bytes((first,)), _prefixed(0, 0x7F, len(name)), name)
        parts += (_prefixed(0, 0x7F, len(value)), value)
    return b"".join(parts)


def _prefixed(first: int, mask: int, value: int) -> bytes:
    """``value`` as an integer whose first byte shares with the bits of ``first`` (section 5.1)."""
    if value < mask:
        return bytes((first | value,))
    out = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
