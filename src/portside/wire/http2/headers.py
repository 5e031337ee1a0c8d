"""What a header list must be in its place (RFC 9113, sections 8.2 and 8.3). A fault ends the stream: PROTOCOL_ERROR."""

from __future__ import annotations

from portside.wire.http2.errors import PROTOCOL_ERROR, RemoteProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.wire.http2.hpack import Headers

REQUEST = 1
RESPONSE = 2
TRAILERS = 3

# Field names: RFC 9110 tokens without upper case. Values: no NUL, CR or LF, no blank at either end.
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_BAD_NAME = bytes(byte for byte in range(256) if byte not in _TOKEN)

# Fields of HTTP/1.1 connections (section 8.2.2).
_CONNECTION_FIELDS = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_RESPONSE_PSEUDO = frozenset((b":status",))


def check(headers: Headers, place: int, stream_id: int) -> None:
    """Raise RemoteProtocolError for the stream unless ``headers`` are well-formed as ``place`` (remembered in them)."""
    if headers.checked == place:
        return
    fault = _fault(headers, place)
    if fault:
        raise RemoteProtocolError(fault, PROTOCOL_ERROR, stream_id)
    headers.checked = place


def _fault(headers: Headers, place: int) -> str:
    pseudo: dict[bytes, bytes] = {}
    allowed = _REQUEST_PSEUDO if place == REQUEST else _RESPONSE_PSEUDO if place == RESPONSE else frozenset()
    regular = False
    lengths: set[bytes] = set()
    for name, value in headers.fields:
        if name[:1] == b":":
            if regular:
                return f"pseudo-header {name!r} after a field"
            if name not in allowed:
                return f"pseudo-header {name!r} is not allowed here"
            if name in pseudo:
                return f"pseudo-header {name!r} twice"
            pseudo[name] = value
        else:
            regular = True
            if not name or name.translate(None, _BAD_NAME) != name:
                return f"field name {name!r} is not lower case"
            if name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
                return f"field {name!r} belongs to HTTP/1.1"
            if name == b"content-length":
                lengths.add(value)
        if value and (b"\0" in value or b"\r" in value or b"\n" in value or value[0] in b" \t" or value[-1] in b" \t"):
            return f"bad characters in the value of {name!r}"
    if lengths and place != TRAILERS:
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > 18:
            return "content-length is not one number"
        headers.content_length = int(length)
    return _pseudo_fault(pseudo, place)


def _pseudo_fault(pseudo: dict[bytes, bytes], place: int) -> str:
    if place == REQUEST:
        method = pseudo.get(b":method")
        if not method:
            return "a request without :method"
        if method == b"CONNECT":  # section 8.5
            return "" if b":authority" in pseudo and len(pseudo) == 2 else "a malformed CONNECT"
        if b":scheme" not in pseudo:
            return "a request without :scheme"
        if not pseudo.get(b":path"):
            return "a request without :path"
    if place == RESPONSE:
        status = pseudo.get(b":status", b"")
        if len(status) != 3 or not status.isdigit():
            return "a response without :status"
    return ""
