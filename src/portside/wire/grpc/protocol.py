"""What gRPC writes into HTTP/2, for servers and clients alike (gRPC's document "PROTOCOL-HTTP2").

Messages and their prefix, compression, timeouts, percent-encoding, metadata, and the statuses that HTTP/2 errors mean.
No connection and no call belongs here. Cheap to import: the command's own client uses it.
"""

from __future__ import annotations

from binascii import Error as _DecodeError
from binascii import a2b_base64, b2a_base64, unhexlify
from struct import Struct

from portside import errors
from portside.wire.http2 import errors as h2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from portside.wire.http2.hpack import Field

MAX_MESSAGE_SIZE = 16 << 20
"""Largest message taken, before and after decompression, in bytes; that of containerd's server and clients."""

PREFIX = Struct(">BI")
"""Compressed flag and length, before each message (Length-Prefixed-Message)."""

CONTENT_TYPE = b"application/grpc"
ACCEPT_ENCODING: Field = (b"grpc-accept-encoding", b"identity,gzip")

# Own header fields of the protocol; they are no metadata of the application's.
_PROTOCOL_FIELDS = frozenset(
    (
        b"content-type",
        b"te",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-status",
        b"grpc-message",
        b"grpc-message-type",
    )
)


class MessageReader:
    """Cuts the content of one stream into messages.

    ``feed`` takes what DATA frames carry, however cut, and returns the messages that are complete with it: pairs of the
    compressed flag and the bytes. A message whose prefix says more than ``limit`` bytes is ResourceExhausted at once.
    """

    __slots__ = ("_chunks", "_held", "_needed", "limit")

    def __init__(self, limit: int = MAX_MESSAGE_SIZE) -> None:
        self.limit = limit
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 5

    @property
    def held(self) -> int:
        """Bytes of a message that is not complete; at the end of a stream anything but 0 is a truncated message."""
        return self._held

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take content; Internal for a flag that is neither 0 nor 1."""
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
        messages = []
        offset = 0
        size = len(data)
        needed = 5
        while size - offset >= 5:
            flag, length = PREFIX.unpack_from(data, offset)
            if flag > 1:
                raise errors.Internal(f"a message with the unknown flags {flag:#x}")
            if length > self.limit:
                raise errors.ResourceExhausted(f"a message of {length} bytes; the limit is {self.limit}")
            needed = 5 + length
            if size - offset < needed:
                break
            messages.append((flag, data[offset + 5 : offset + needed]))
            offset += needed
            needed = 5
        self._needed = needed
        self._held = size - offset
        if self._held:
            self._chunks.append(data[offset:] if offset else data)
        return messages


def frame(message: bytes) -> bytes:
    """A message with its prefix, not compressed."""
    return PREFIX.pack(0, len(message)) + message


def frame_compressed(message: bytes) -> bytes:
    """A message with its prefix, compressed by gzip."""
    import zlib

    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = packer.compress(message) + packer.flush()
    return PREFIX.pack(1, len(packed)) + packed


def decompress(data: bytes, limit: int = MAX_MESSAGE_SIZE) -> bytes:
    """The message that gzip'ed ``data`` holds; never makes more than ``limit`` bytes of it (ResourceExhausted)."""
    import zlib

    unpacker = zlib.decompressobj(31)
    try:
        message = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise errors.Internal(f"decompress a message: {error}") from None
    if len(message) > limit:
        raise errors.ResourceExhausted(f"a message of more than {limit} bytes after decompression")
    if not unpacker.eof:
        raise errors.Internal("decompress a message: it is truncated")
    return message


# Timeouts

_UNITS = ((b"n", 1e-9), (b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0), (b"H", 3600.0))
_SECONDS = {unit[0]: seconds for unit, seconds in _UNITS}


def encode_timeout(seconds: float) -> bytes:
    """The value of ``grpc-timeout``: at most 8 digits, in the finest unit that they allow; never less than 1 ns."""
    for unit, length in _UNITS:
        value = int(seconds / length)
        if value < 100_000_000:
            return b"%d%s" % (max(value, 1), unit)
    return b"99999999H"


def decode_timeout(value: bytes) -> float:
    """Seconds of a ``grpc-timeout``; ValueError if it is none."""
    digits = value[:-1]
    if not 1 <= len(digits) <= 8 or not digits.isdigit() or value[-1] not in _SECONDS:
        raise ValueError(f"malformed grpc-timeout {value!r}")
    return int(digits) * _SECONDS[value[-1]]


# grpc-message

_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}
MAX_STATUS_MESSAGE = 8 << 10
"""Bytes of ``grpc-message`` that we send: clients (grpc-core) drop header lists of more than 8 to 16 kB."""


def encode_message(text: str) -> bytes:
    """Percent-encoded UTF-8, as ``grpc-message`` carries it."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > MAX_STATUS_MESSAGE:
        raw = raw[: MAX_STATUS_MESSAGE - 3].decode("utf-8", "ignore").encode() + b"..."
    if raw.isascii() and raw.isalnum():
        return raw
    encoded = b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in raw)
    # Blanks at the ends would not survive HTTP (RFC 9113, section 8.2.1).
    if encoded[:1] == b" ":
        encoded = b"%20" + encoded[1:]
    if encoded[-1:] == b" ":
        encoded = encoded[:-1] + b"%20"
    return encoded


def decode_message(value: bytes) -> str:
    """The text of a ``grpc-message``; what is not well encoded stays as it is, since a message must never be lost."""
    if b"%" not in value:
        return value.decode("utf-8", "replace")
    first, *rest = value.split(b"%")
    parts = [first]
    for part in rest:
        try:
            parts.append(unhexlify(part[:2]) + part[2:] if len(part) > 1 else b"%" + part)
        except _DecodeError:
            parts.append(b"%" + part)
    return b"".join(parts).decode("utf-8", "replace")


# Metadata


def encode_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> list[Field]:
    """Header fields of custom metadata; keys ending in ``-bin`` take bytes, all others printable ASCII text.

    InvalidArgument names the key that cannot be sent.
    """
    fields = []
    for key, value in pairs:
        name = key.encode("ascii", "replace")
        if not name or name.strip(b"abcdefghijklmnopqrstuvwxyz0123456789_.-") or name in _PROTOCOL_FIELDS:
            raise errors.InvalidArgument(f"metadata key {key!r} is not allowed")
        if key.endswith("-bin"):
            raw = value.encode() if isinstance(value, str) else value
            fields.append((name, b2a_base64(raw, newline=False).rstrip(b"=")))
            continue
        text = value.encode("utf-8") if isinstance(value, str) else value
        if not all(0x20 <= byte < 0x7F for byte in text):
            raise errors.InvalidArgument(f"metadata value of {key!r} is not printable ASCII; use a key ending in -bin")
        fields.append((name, text.strip(b" ")))
    return fields


def decode_metadata(fields: Iterable[Field]) -> list[tuple[str, str | bytes]]:
    """Custom metadata among ``fields``, repetitions kept; pseudo-headers and fields of the protocol are left out.

    Internal for a ``-bin`` value that is not base64, with or without padding. Values joined by commas are split.
    """
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name[:1] == b":" or name in _PROTOCOL_FIELDS:
            continue
        key = name.decode("ascii")
        if not key.endswith("-bin"):
            pairs.append((key, value.decode("latin-1")))
            continue
        try:
            pairs += [(key, a2b_base64(part + b"=" * (-len(part) % 4))) for part in value.split(b",")]
        except _DecodeError:
            raise errors.Internal(f"metadata value of {key!r} is not base64") from None
    return pairs


# What HTTP means to gRPC

_BY_RESET: dict[int, type[errors.PortsideError]] = {
    h2.REFUSED_STREAM: errors.Unavailable,
    h2.CANCEL: errors.Cancelled,
    h2.ENHANCE_YOUR_CALM: errors.ResourceExhausted,
    h2.INADEQUATE_SECURITY: errors.PermissionDenied,
}
_BY_HTTP: dict[bytes, type[errors.PortsideError]] = {
    b"400": errors.Internal,
    b"401": errors.Unauthenticated,
    b"403": errors.PermissionDenied,
    b"404": errors.Unimplemented,
    b"429": errors.Unavailable,
    b"502": errors.Unavailable,
    b"503": errors.Unavailable,
    b"504": errors.Unavailable,
}


def error_of_reset(code: int) -> errors.PortsideError:
    """What a RST_STREAM with this code tells a client (PROTOCOL-HTTP2: Errors)."""
    name = h2.NAMES.get(code, str(code))
    return _BY_RESET.get(code, errors.Internal)(f"the server reset the stream: {name}")


def error_of_http(status: bytes) -> errors.PortsideError:
    """What a response with this ``:status`` and no grpc-status tells a client (http-grpc-status-mapping)."""
    kind = _BY_HTTP.get(status, errors.Unknown)
    return kind(f"the answer is not gRPC: HTTP status {status.decode('latin-1')}")
