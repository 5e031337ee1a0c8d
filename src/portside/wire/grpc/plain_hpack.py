"""As much of HPACK as a call of the commands needs: the head of a request, and answers that leave the tables alone.

What does not belong here: the dynamic table and Huffman code (``wire/http2/hpack.py``, whose import takes longer than
a call). Whoever finds a block that needs them is told so and turns there. Source: RFC 7541.
"""

from __future__ import annotations

from time import monotonic

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    Field = tuple[bytes, bytes]

MAX_HEAD = 16384
"""Bytes of a request's head: what fits into one frame."""

_HEAD = (  # :method POST, :scheme http, :authority, content-type, te, grpc-accept-encoding, user-agent
    b"\x83\x86\x01\x09localhost\x0f\x10\x10application/grpc\x00\x02te\x08trailers"
    b"\x00\x14grpc-accept-encoding\x0didentity,gzip\x0f\x2b\x08portside"
)
_STATIC = {8: (b":status", b"200"), 31: (b"content-type", b"")}  # what our servers use of HPACK's static table


def request_head(path: str, metadata: tuple[tuple[str, str], ...], deadline: float | None) -> bytes:
    """The header block of a request."""
    name = path.encode()
    parts = [_HEAD[:2], b"\x04", _length(len(name)), name, _HEAD[2:]]
    if deadline is not None:
        left = max(1, int((deadline - monotonic()) * 1e6))
        value = b"%du" % left if left < 100_000_000 else b"%dS" % min(left // 1_000_000, 99_999_999)
        parts += (b"\x00\x0cgrpc-timeout", _length(len(value)), value)
    for key, text in metadata:
        name, value = key.encode(), text.encode()
        if (
            not key.isascii()
            or key != key.lower()
            or not text.isascii()
            or not text.isprintable()
            or key[-4:] == "-bin"
        ):
            raise InvalidArgument(f"metadata {key!r}: want a lower-case name and printable ASCII")
        parts += (b"\x00", _length(len(name)), name, _length(len(value)), value)
    block = b"".join(parts)
    if len(block) > MAX_HEAD:
        raise InvalidArgument(f"metadata of {len(block)} bytes is too large")
    return block


def _length(size: int) -> bytes:
    """A string's length as HPACK has it, not Huffman-coded."""
    if size < 127:
        return bytes((size,))
    out = bytearray(b"\x7f")
    size -= 127
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def plain_fields(block: bytes) -> list[Field] | None:
    """The fields of a block that leaves the dynamic table alone and writes its strings plainly; None for others."""
    fields = []
    at = 1 if block[:1] == b"\x20" else 0  # a dynamic table of size 0: there is none anyway
    while at < len(block):
        first = block[at]
        at += 1
        if first & 0x80:
            field = _STATIC.get(first & 0x7F)
            if field is None or not field[1]:
                return None
            fields.append(field)
            continue
        if first & 0x60:
            return None
        if first & 0x0F == 0x0F and at < len(block):
            name = _STATIC.get(15 + block[at], (b"", b""))[0]
            at += 1
        elif first & 0x0F == 0:
            name, at = _string(block, at)
        else:
            return None
        value, at = _string(block, at)
        if not name or at < 0:
            return None
        fields.append((name, value))
    return fields


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string of less than 127 bytes without Huffman code, and the offset behind it; -1 for any other."""
    end = at + 1 + block[at] if 0 <= at < len(block) and block[at] < 127 else -1
    return (block[at + 1 : end], end) if 0 <= end <= len(block) else (b"", -1)
