"""A small protobuf codec for processes that must stay light: bytes to dictionaries and back, driven by tables.

Shims and the start of our commands use it instead of protobuf, which costs 7 MB and 50 ms. What does not belong
here: knowledge of any message. The tables are generated from our .proto files into ``portside.wire.tables``
(``script/generate.py``), one module per protobuf package, so that a process imports what it speaks and no more.

A message is a dictionary by field name as in the .proto file. Encoding takes any mapping, leaves out what equals the
default, and is deterministic (fields by number, maps by key). Decoding gives a ``Message``, in which a field that was
not on the wire reads as its default: ``message["exec_id"]`` is ``""``, a repeated field ``[]``, a map ``{}``, and an
absent message or ``optional`` field ``None``; ``in`` and ``get`` tell what was really there.

Long, as one module is one import for a process that has to start fast, and both directions share the kinds of fields.

Source: protobuf.dev/programming-guides/encoding. Imported by shims: standard library only.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

MAX_SIZE = 64 << 20
"""A longer message is refused, whatever is in it; transports have lower limits of their own."""
MAX_DEPTH = 100
"""Messages within messages; protobuf's own limit."""
MAX_ITEMS = 1 << 20
"""Elements of one repeated field or map, since two bytes on the wire may become a dictionary."""

_ONE, _MANY, _MAP, _MESSAGE, _MESSAGES, _PACKED = range(6)
_BYTE = tuple(bytes((number,)) for number in range(128))
_FIXED32, _FIXED64 = Struct("<I"), Struct("<Q")
_SFIXED32, _SFIXED64 = Struct("<i"), Struct("<q")
_FLOAT, _DOUBLE = Struct("<f"), Struct("<d")


class Message(dict["str", "Any"]):
    """A decoded message: what was on the wire, and by ``[]`` defaults for the rest (KeyError: no such field)."""

    __slots__ = ("table",)
    table: Table

    def __missing__(self, name: str) -> Any:
        return self.table.default(name)


class Table:
    """What the codec knows of one message.

    ``rows`` are ``(number, name, kind, label, sub)``: kind is protobuf's name of the type (``string``, ``uint32``,
    ``enum``, ``message`` …), label is empty, ``optional``, ``repeated``, ``packed`` or ``map``, sub the table of a
    message or of a map's entry. They are prepared for use when first needed, or by ``prepare``.
    """

    __slots__ = ("_decoders", "_defaults", "_encoders", "name", "rows")

    def __init__(self, name: str, rows: tuple[tuple[int, str, str, str, Table | None], ...]) -> None:
        self.name = name
        self.rows = rows
        self._decoders: dict[int, _Decoder] | None = None
        self._encoders: list[_Encoder] | None = None
        self._defaults: dict[str, Any] | None = None

    def default(self, name: str) -> Any:
        """What an absent field ``name`` means, made anew; KeyError for a field that the message does not have."""
        if self._defaults is None:
            self._defaults = {row[1]: _default(row[2], row[3]) for row in self.rows}
        value = self._defaults[name]
        return value() if value is list or value is dict else value

    def prepare(self) -> None:
        """Get ready now, sub-messages too: a zygote does this before it forks, so that shims share the result."""
        self.decoders()
        self.encoders()
        for name in [row[1] for row in self.rows]:
            self.default(name)
        for row in self.rows:
            if row[4] is not None:
                row[4].prepare()

    def decoders(self) -> dict[int, _Decoder]:
        """By tag (number and wire type): name, shape, converter or sub-table."""
        if self._decoders is None:
            found: dict[int, _Decoder] = {}
            for number, name, kind, label, sub in self.rows:
                wire, _, convert = _KINDS[kind]
                tag = number << 3 | wire
                if label == "map":
                    found[tag] = (name, _MAP, sub)
                elif sub is not None:
                    found[tag] = (name, _MESSAGES if label == "repeated" else _MESSAGE, sub)
                elif label in ("repeated", "packed"):
                    found[tag] = (name, _MANY, convert)
                    if wire != 2:
                        found[number << 3 | 2] = (name, _PACKED, kind)
                else:
                    found[tag] = (name, _ONE, convert)
            self._decoders = found
        return self._decoders

    def encoders(self) -> list[_Encoder]:
        """In order of number: name, tag, label, kind, encoder, sub-table."""
        if self._encoders is None:
            self._encoders = [
                (
                    name,
                    varint(number << 3 | (2 if label == "packed" else _KINDS[kind][0])),
                    label,
                    _KINDS[kind][1],
                    sub,
                )
                for number, name, kind, label, sub in sorted(self.rows, key=lambda row: row[0])
            ]
        return self._encoders

    def __repr__(self) -> str:
        return f"<Table {self.name}>"


if TYPE_CHECKING:
    _Decoder = tuple[str, int, Any]
    _Encoder = tuple[str, bytes, str, Callable[[Any], bytes], Table | None]


def encode(table: Table, value: Mapping[str, Any]) -> bytes:
    """``value`` as a message of ``table``.

    InvalidArgument, naming message and field, for a value that its field cannot hold; KeyError for a name that the
    message does not have, which is a mistake of ours.
    """
    out = bytearray()
    _encode(table, value, out, MAX_DEPTH)
    return bytes(out)


def decode(table: Table, data: bytes | bytearray | memoryview) -> Message:
    """The message in ``data``; unknown fields are skipped. Malformed, too deep or too large is InvalidArgument."""
    if len(data) > MAX_SIZE:
        raise InvalidArgument(f"message {table.name}: {len(data)} bytes, more than the {MAX_SIZE} allowed")
    data = bytes(data)
    message = Message()
    message.table = table
    try:
        _decode(table, data, 0, len(data), MAX_DEPTH, message)
    except IndexError:
        raise InvalidArgument(f"message {table.name}: truncated") from None
    except ValueError as error:  # our own, and a string that is not UTF-8
        raise InvalidArgument(f"message {table.name}: {error}") from None
    return message


# Encoding


def _encode(table: Table, value: Mapping[str, Any], out: bytearray, depth: int) -> None:
    if not depth:
        raise InvalidArgument(f"message {table.name}: nested more than {MAX_DEPTH} deep")
    seen = 0
    for name, tag, label, convert, sub in table.encoders():
        if name not in value:
            continue
        seen += 1
        item = value[name]
        if item is None or (not item and label != "optional" and (sub is None or label)):
            continue
        try:
            if not label or label == "optional":
                out += tag
                out += convert(item) if sub is None else _embedded(sub, item, depth)
            elif label == "packed":
                body = b"".join(map(convert, item))
                out += tag + varint(len(body)) + body
            else:
                _encode_many(tag, label, convert, sub, item, out, depth)
        except (AttributeError, OverflowError, TypeError, UnicodeError, ValueError) as error:
            raise InvalidArgument(f"message {table.name}: field {name}: {error}") from None
    if seen != len(value):
        known = {row[1] for row in table.rows}
        raise KeyError(f"message {table.name} has no field {', '.join(sorted(set(value) - known))}")


def _encode_many(
    tag: bytes, label: str, convert: Callable[[Any], bytes], sub: Table | None, items: Any, out: bytearray, depth: int
) -> None:
    if label == "map":
        assert sub is not None
        for key in sorted(items):
            out += tag + _embedded(_ENTRIES.get(id(sub)) or _entry(sub), {"key": key, "value": items[key]}, depth)
    elif sub is None:
        for item in items:
            out += tag + convert(item)
    else:
        for item in items:
            out += tag + _embedded(sub, item, depth)


_ENTRIES: dict[int, Table] = {}


def _entry(table: Table) -> Table:
    """The table of a map's entry for encoding: protobuf writes key and value even where they are defaults."""
    rows = tuple((number, name, kind, "optional", sub) for number, name, kind, _, sub in table.rows)
    _ENTRIES[id(table)] = entry = Table(table.name, rows)  # tables are never freed, so their ids stay theirs
    return entry


def _embedded(table: Table, value: Mapping[str, Any], depth: int) -> bytes:
    body = bytearray()
    _encode(table, value, body, depth - 1)
    return varint(len(body)) + bytes(body)


def varint(number: int) -> bytes:
    """``number`` as the wire has lengths and tags; ValueError unless it is unsigned and of at most 64 bits."""
    if 0 <= number < 128:
        return _BYTE[number]
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} is out of range")
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text_out(value: str) -> bytes:
    data = value.encode()
    return varint(len(data)) + data


def _bytes_out(value: Any) -> bytes:
    if isinstance(value, (str, int)):
        raise TypeError(f"want bytes, not {type(value).__name__}")
    data = bytes(value)
    return varint(len(data)) + data


def _bool_out(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _unsigned_out(bits: int) -> Callable[[int], bytes]:
    limit = 1 << bits

    def convert(value: int) -> bytes:
        if not 0 <= value < limit:
            raise ValueError(f"{value} is not an unsigned number of {bits} bits")
        return varint(value)

    return convert


def _signed_out(bits: int) -> Callable[[int], bytes]:
    limit = 1 << bits - 1

    def convert(value: int) -> bytes:
        if not -limit <= value < limit:
            raise ValueError(f"{value} is not a signed number of {bits} bits")
        return varint(value & 0xFFFFFFFFFFFFFFFF)

    return convert


def _zigzag_out(bits: int) -> Callable[[int], bytes]:
    limit = 1 << bits - 1

    def convert(value: int) -> bytes:
        if not -limit <= value < limit:
            raise ValueError(f"{value} is not a signed number of {bits} bits")
        return varint(value << 1 if value >= 0 else (-value << 1) - 1)

    return convert


def _fixed_out(form: Struct) -> Callable[[Any], bytes]:
    def convert(value: Any) -> bytes:
        try:
            return form.pack(value)
        except StructError as error:
            raise ValueError(str(error)) from None

    return convert


# Decoding


def _decode(table: Table, data: bytes, pos: int, end: int, depth: int, into: Message) -> None:
    """Fields between ``pos`` and ``end`` into ``into``; ValueError or IndexError if they are malformed."""
    if not depth:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    decoders = table.decoders()
    while pos < end:
        tag = data[pos]
        pos += 1
        if tag > 127:
            tag, pos = _tag_at(data, pos - 1)
        wire = tag & 7
        decoder = decoders.get(tag)
        if wire == 2:
            size = data[pos]
            pos += 1
            if size > 127:
                size, pos = _varint_at(data, pos - 1)
            stop = pos + size
            if stop > end:
                raise IndexError
            if decoder is not None:
                name, shape, convert = decoder
                if shape == _ONE:
                    into[name] = convert(data[pos:stop])
                else:
                    _decode_chunk(name, shape, convert, data, pos, stop, depth, into)
            elif tag < 8:
                raise ValueError("field number 0")
            pos = stop
            continue
        start = pos
        if wire == 0:
            value = data[pos]
            pos += 1
            if value > 127:
                value, pos = _varint_at(data, pos - 1)
        else:
            pos = _skip(data, pos, tag, depth)
        if decoder is not None:
            name, shape, convert = decoder
            item = convert(value if wire == 0 else data[start:pos])
            if shape == _ONE:
                into[name] = item
            else:
                _append(into, name, item)
        elif tag < 8:
            raise ValueError("field number 0")
    if pos != end:
        raise IndexError


def _decode_chunk(name: str, shape: int, sub: Any, data: bytes, pos: int, stop: int, depth: int, into: Message) -> None:
    """A length-delimited field other than one string or one run of bytes."""
    if shape == _MESSAGE:
        child = into.get(name)
        if child is None:  # a second one is merged into the first, as protobuf has it
            child = into[name] = Message()
            child.table = sub
        _decode(sub, data, pos, stop, depth - 1, child)
    elif shape == _MESSAGES:
        child = Message()
        child.table = sub
        _append(into, name, child)
        _decode(sub, data, pos, stop, depth - 1, child)
    elif shape == _MAP:
        entry = Message()
        entry.table = sub
        _decode(sub, data, pos, stop, depth - 1, entry)
        value = entry["value"]
        if value is None:
            value = Message()
            value.table = sub.rows[1][4]
        into.setdefault(name, {})[entry["key"]] = value
        if len(into[name]) > MAX_ITEMS:
            raise ValueError(f"field {name}: more than {MAX_ITEMS} entries")
    elif shape == _PACKED:
        _decode_packed(name, sub, data, pos, stop, into)
    else:
        _append(into, name, sub(data[pos:stop]))


def _decode_packed(name: str, kind: str, data: bytes, pos: int, stop: int, into: Message) -> None:
    wire, _, convert = _KINDS[kind]
    while pos < stop:
        if wire == 0:
            value, pos = _varint_at(data, pos)
            _append(into, name, convert(value))
        else:
            width = 8 if wire == 1 else 4
            if pos + width > stop:
                raise IndexError
            _append(into, name, convert(data[pos : pos + width]))
            pos += width
    if pos != stop:
        raise IndexError


def _append(into: Message, name: str, item: Any) -> None:
    items = into.setdefault(name, [])
    if len(items) >= MAX_ITEMS:
        raise ValueError(f"field {name}: more than {MAX_ITEMS} elements")
    items.append(item)


def _varint_at(data: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
    if value > 0xFFFFFFFFFFFFFFFF:
        raise ValueError("a number of more than 64 bits")
    return value, pos


def _tag_at(data: bytes, pos: int) -> tuple[int, int]:
    tag, after = _varint_at(data, pos)
    if tag > 0xFFFFFFFF or after - pos > 5:
        raise ValueError("a field number of more than 29 bits")
    return tag, after


def _skip(data: bytes, pos: int, tag: int, depth: int) -> int:
    """The position behind a value that is neither a varint nor length-delimited; groups are old, but still skipped."""
    wire = tag & 7
    if wire == 1 or wire == 5:
        pos += 8 if wire == 1 else 4
        if pos > len(data):
            raise IndexError
        return pos
    if wire != 3:
        raise ValueError(f"wire type {wire} where a field begins")
    if not depth:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    while True:
        inner, pos = _tag_at(data, pos)
        if inner < 8:
            raise ValueError("field number 0")
        if inner & 7 == 4:
            if inner >> 3 != tag >> 3:
                raise ValueError("a group that ends as another")
            return pos
        if inner & 7 == 0:
            _, pos = _varint_at(data, pos)
        elif inner & 7 == 2:
            size, pos = _varint_at(data, pos)
            pos += size
        else:
            pos = _skip(data, pos, inner, depth - 1)
        if pos > len(data):
            raise IndexError


def _same(value: Any) -> Any:
    return value


def _unsigned32_in(value: int) -> int:
    return value & 0xFFFFFFFF


def _signed32_in(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _signed64_in(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _zigzag32_in(value: int) -> int:
    value &= 0xFFFFFFFF
    return value >> 1 ^ -(value & 1)


def _zigzag64_in(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def _fixed_in(form: Struct) -> Callable[[bytes], Any]:
    def convert(data: bytes) -> Any:
        return form.unpack(data)[0]

    return convert


_KINDS: dict[str, tuple[int, Callable[[Any], bytes], Callable[[Any], Any]]] = {
    # kind: wire type, to the wire, from the wire
    "string": (2, _text_out, bytes.decode),
    "bytes": (2, _bytes_out, _same),
    "message": (2, _bytes_out, _same),
    "bool": (0, _bool_out, bool),
    "enum": (0, _signed_out(32), _signed32_in),
    "int32": (0, _signed_out(32), _signed32_in),
    "int64": (0, _signed_out(64), _signed64_in),
    "uint32": (0, _unsigned_out(32), _unsigned32_in),
    "uint64": (0, _unsigned_out(64), _same),
    "sint32": (0, _zigzag_out(32), _zigzag32_in),
    "sint64": (0, _zigzag_out(64), _zigzag64_in),
    "fixed32": (5, _fixed_out(_FIXED32), _fixed_in(_FIXED32)),
    "fixed64": (1, _fixed_out(_FIXED64), _fixed_in(_FIXED64)),
    "sfixed32": (5, _fixed_out(_SFIXED32), _fixed_in(_SFIXED32)),
    "sfixed64": (1, _fixed_out(_SFIXED64), _fixed_in(_SFIXED64)),
    "float": (5, _fixed_out(_FLOAT), _fixed_in(_FLOAT)),
    "double": (1, _fixed_out(_DOUBLE), _fixed_in(_DOUBLE)),
}


def _default(kind: str, label: str) -> Any:
    if label in ("repeated", "packed"):
        return list
    if label == "map":
        return dict
    if label == "optional" or kind == "message":
        return None
    return {"string": "", "bytes": b"", "bool": False, "float": 0.0, "double": 0.0}.get(kind, 0)
