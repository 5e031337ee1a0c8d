"""ttrpc as a state machine without IO, for either side of a connection: bytes in, events out; calls in, bytes out.

What does not belong here: sockets, time, and what the payloads mean. Imported by shims: standard library only.

A frame is ten bytes of header (length u32, stream u32, type u8, flags u8, big endian) and up to 4 MiB of body. Each
call is a stream, opened by a request of the client under an odd number that was not used before:

    state    what came          goes to   what its owner is told
    -------  -----------------  --------  ------------------------------------------------------
    server: the peer is the client
    IDLE     REQUEST            HALF      Request, ``streaming`` false
    IDLE     REQUEST_OPEN       OPEN      Request, ``streaming`` true: data will follow
    OPEN     DATA               OPEN      Data
    OPEN     DATA_END           HALF      Data, ``end`` true
    client: the peer is the server
    UNARY    RESPONSE           CLOSED    Response
    STREAM   DATA               STREAM    Data
    STREAM   DATA_END           CLOSED    Data, ``end`` true
    STREAM   RESPONSE           CLOSED    Response: the last message of the call, or its error

Anything else breaks the protocol on that stream alone. A server answers it with InvalidArgument and, if the stream
was open, tells its owner (Failed); a client fails the call (Failed), and ignores streams it does not have: answers to
calls it gave up. A frame above 4 MiB is skipped as it arrives and fails its stream with ResourceExhausted. Frames of
an unknown type are ignored. Our own side closes a stream by ``respond``, ``fail``, or ``send_data`` with ``end``.

Source: containerd/ttrpc, PROTOCOL.md.
"""

from __future__ import annotations

from struct import Struct

from portside.errors import Internal, InvalidArgument, PortsideError, ResourceExhausted, Unavailable
from portside.wire.codec import decode, encode
from portside.wire.status import code_of, error_of
from portside.wire.tables import ttrpc as tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_BODY = 4 << 20
"""Bytes of a frame's body; both sides of every implementation refuse more."""
MAX_STREAMS = 4096
"""Calls of one connection that a server has open; further ones are answered ResourceExhausted."""

HEADER = Struct(">IIBB")
REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4

_MAX_STREAM_ID = 0xFFFFFFFF
_REQUEST_OPEN, _DATA_END = 4, 5  # kinds of frames beside the three types: what flags make of them
_OPEN, _HALF, _UNARY, _STREAM, _IDLE, _CLOSED = "open", "half", "unary", "stream", "idle", "closed"

TRANSITIONS = {
    (_IDLE, REQUEST): _HALF,
    (_IDLE, _REQUEST_OPEN): _OPEN,
    (_OPEN, DATA): _OPEN,
    (_OPEN, _DATA_END): _HALF,
    (_UNARY, RESPONSE): _CLOSED,
    (_STREAM, DATA): _STREAM,
    (_STREAM, _DATA_END): _CLOSED,
    (_STREAM, RESPONSE): _CLOSED,
}


class Request:
    """To a server: a call. ``timeout_ns`` may be 0 (none); ``metadata`` has lower-case keys with their first values."""

    __slots__ = ("metadata", "method", "payload", "service", "stream_id", "streaming", "timeout_ns")

    def __init__(
        self, stream_id: int, service: str, method: str, payload: bytes, timeout_ns: int, metadata: dict[str, str],
        streaming: bool,
    ) -> None:  # fmt: skip
        self.stream_id = stream_id
        self.service = service
        self.method = method
        self.payload = payload
        self.timeout_ns = timeout_ns
        self.metadata = metadata
        self.streaming = streaming


class Response:
    """To a client: the call is over. ``error`` is None if it went well."""

    __slots__ = ("error", "payload", "stream_id")

    def __init__(self, stream_id: int, payload: bytes, error: PortsideError | None) -> None:
        self.stream_id = stream_id
        self.payload = payload
        self.error = error


class Data:
    """A message of a stream (None: none in this frame); after ``end`` the peer sends no more on it."""

    __slots__ = ("end", "payload", "stream_id")

    def __init__(self, stream_id: int, payload: bytes | None, end: bool) -> None:
        self.stream_id = stream_id
        self.payload = payload
        self.end = end


class Failed:
    """The peer broke the protocol on this stream, which is closed now."""

    __slots__ = ("error", "stream_id")

    def __init__(self, stream_id: int, error: PortsideError) -> None:
        self.stream_id = stream_id
        self.error = error


class Closed:
    """The peer is gone; ``truncated`` tells that it went in the middle of a frame. Open streams get nothing more."""

    __slots__ = ("truncated",)

    def __init__(self, truncated: bool) -> None:
        self.truncated = truncated


if TYPE_CHECKING:
    Event = Request | Response | Data | Failed | Closed


class TtrpcConnection:
    """One side of one connection. Whoever owns it moves bytes: ``receive`` what came, write out what ``take`` gives."""

    def __init__(self, *, client: bool) -> None:
        self._client = client
        self._states: dict[int, str] = {}
        self._sending: set[int] = set()  # streams of a client on which it may still send data
        self._last = -1 if client else 0  # the highest stream number so far
        self._buffer = bytearray()
        self._skip = 0  # bytes of an oversized body that are still to come
        self._out: list[bytes] = []

    @property
    def streams(self) -> int:
        """How many calls are open."""
        return len(self._states)

    @property
    def pending(self) -> bool:
        """Whether a frame has come in part, or something waits to be taken."""
        return bool(self._buffer or self._skip or self._out)

    def save(self) -> dict[str, Any]:
        """Plain values for ``restore``, in another process perhaps; only when nothing is ``pending``."""
        return {"states": list(self._states.items()), "sending": list(self._sending), "last": self._last}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Be the connection that ``save`` described; for one that has seen nothing yet, of the same side."""
        self._states = dict(values["states"])
        self._sending = set(values["sending"])
        self._last = values["last"]

    def take(self) -> bytes:
        """What is to be written to the peer now, in order; empty if nothing is."""
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    # Receiving

    def receive(self, data: bytes) -> list[Event]:
        """What ``data`` means, in order; empty ``data`` means that the peer is gone. Never raises, whatever came."""
        if not data:
            self._states.clear()
            return [Closed(bool(self._buffer or self._skip))]
        events: list[Event] = []
        buffer = self._buffer
        buffer += data
        pos = 0
        while True:
            if self._skip:
                skipped = min(self._skip, len(buffer) - pos)
                self._skip -= skipped
                pos += skipped
            if len(buffer) - pos < HEADER.size:
                break
            length, stream_id, kind, flags = HEADER.unpack_from(buffer, pos)
            if length > MAX_BODY:
                self._skip = length
                pos += HEADER.size
                self._oversized(stream_id, kind, length, events)
                continue
            end = pos + HEADER.size + length
            if len(buffer) < end:
                break
            self._frame(stream_id, kind, flags, bytes(buffer[pos + HEADER.size : end]), events)
            pos = end
        del buffer[:pos]
        return events

    def _frame(self, stream_id: int, kind: int, flags: int, body: bytes, events: list[Event]) -> None:
        if kind == REQUEST and flags & REMOTE_OPEN:
            kind = _REQUEST_OPEN
        elif kind == DATA and flags & REMOTE_CLOSED:
            kind = _DATA_END
        elif not REQUEST <= kind <= DATA or (kind == RESPONSE and not self._client):
            return
        state = self._states.get(stream_id)
        if state is None:
            state = _CLOSED if self._client or stream_id <= self._last else _IDLE
        following = TRANSITIONS.get((state, kind))
        if following is None:
            self._violation(stream_id, state, kind, events)
        elif state == _IDLE:
            self._request(stream_id, following, body, events)
        else:
            self._set(stream_id, following)
            if kind == RESPONSE:
                events.append(self._response(stream_id, body))
            else:
                events.append(Data(stream_id, None if flags & NO_DATA else body, kind == _DATA_END))

    def _request(self, stream_id: int, state: str, body: bytes, events: list[Event]) -> None:
        if not stream_id & 1:
            self._reject(stream_id, InvalidArgument(f"stream {stream_id}: a client's streams have odd numbers"))
            return
        self._last = stream_id
        if len(self._states) >= MAX_STREAMS:
            self._reject(stream_id, ResourceExhausted(f"more than {MAX_STREAMS} calls at once on one connection"))
            return
        try:
            request = decode(tables.Request, body)
        except InvalidArgument as error:
            self._reject(stream_id, error)
            return
        metadata: dict[str, str] = {}
        for pair in request["metadata"]:
            metadata.setdefault(pair["key"].lower(), pair["value"])
        self._states[stream_id] = state
        events.append(
            Request(
                stream_id,
                request["service"],
                request["method"],
                request["payload"],
                max(0, request["timeout_nano"]),
                metadata,
                state == _OPEN,
            )
        )

    def _response(self, stream_id: int, body: bytes) -> Response | Failed:
        try:
            response = decode(tables.Response, body)
        except InvalidArgument as error:
            return Failed(stream_id, Internal(f"answer of the peer: {error}"))
        status = response["status"]
        error_code = status["code"] if status is not None else 0
        return Response(stream_id, response["payload"], error_of(error_code, status["message"]) if error_code else None)

    def _violation(self, stream_id: int, state: str, kind: int, events: list[Event]) -> None:
        if self._client:
            if state != _CLOSED:
                self._set(stream_id, _CLOSED)
                events.append(Failed(stream_id, Internal(f"stream {stream_id}: the server sent what it must not")))
            return
        what = {DATA: "data", _DATA_END: "data"}.get(kind, "a second request")
        problem = {_IDLE: "was never opened", _CLOSED: "is over"}.get(state, "is not open for it")
        error = InvalidArgument(f"stream {stream_id}: {what} on a stream that {problem}")
        self._reject(stream_id, error)
        if state in (_OPEN, _HALF):
            self._set(stream_id, _CLOSED)
            events.append(Failed(stream_id, error))

    def _oversized(self, stream_id: int, kind: int, length: int, events: list[Event]) -> None:
        error = ResourceExhausted(f"frame of {length} bytes, more than the {MAX_BODY} allowed")
        known = stream_id in self._states
        self._set(stream_id, _CLOSED)
        if not self._client and kind in (REQUEST, DATA):
            if kind == REQUEST:
                self._last = max(self._last, stream_id)
            self._reject(stream_id, error)
        if known:
            events.append(Failed(stream_id, error))

    def _set(self, stream_id: int, state: str) -> None:
        if state == _CLOSED:
            self._states.pop(stream_id, None)
            self._sending.discard(stream_id)
        else:
            self._states[stream_id] = state

    def _reject(self, stream_id: int, error: PortsideError) -> None:
        self._send(stream_id, RESPONSE, 0, _failure(error))

    # Sending

    def _send(self, stream_id: int, kind: int, flags: int, body: bytes) -> None:
        self._out.append(HEADER.pack(len(body), stream_id, kind, flags) + body)

    def request(
        self, service: str, method: str, payload: bytes,
        *, timeout_ns: int = 0, metadata: Mapping[str, str] | None = None,
        client_streams: bool = False, server_streams: bool = False,
    ) -> int:  # fmt: skip
        """Begin a call as a client; the number of its stream.

        ResourceExhausted if it is too large, Unavailable if the connection has no numbers left: open a new one.
        """
        if not self._client:
            raise Internal("a request from a server")
        if self._last + 2 > _MAX_STREAM_ID:
            raise Unavailable("all stream numbers of this connection are used up")
        value = {"service": service, "method": method, "payload": payload, "timeout_nano": timeout_ns}
        if metadata:
            value["metadata"] = [{"key": key, "value": text} for key, text in metadata.items()]
        body = encode(tables.Request, value)
        if len(body) > MAX_BODY:
            raise ResourceExhausted(f"request {service}/{method}: {len(body)} bytes, more than the {MAX_BODY} allowed")
        self._last = stream_id = self._last + 2
        streaming = client_streams or server_streams
        self._states[stream_id] = _STREAM if streaming else _UNARY
        if client_streams:
            self._sending.add(stream_id)
        flags = REMOTE_OPEN if client_streams else REMOTE_CLOSED if streaming else 0
        self._send(stream_id, REQUEST, flags, body)
        return stream_id

    def respond(self, stream_id: int, payload: bytes) -> None:
        """Answer a call as a server; too large an answer becomes ResourceExhausted, a closed stream drops it."""
        if self._ours(stream_id):
            self._set(stream_id, _CLOSED)
            body = encode(tables.Response, {"status": {}, "payload": payload})
            if len(body) > MAX_BODY:
                body = _failure(ResourceExhausted(f"answer of {len(body)} bytes, more than the {MAX_BODY} allowed"))
            self._send(stream_id, RESPONSE, 0, body)

    def fail(self, stream_id: int, error: BaseException) -> None:
        """Answer a call as a server with an error; a stream that is closed by now drops it."""
        if self._ours(stream_id):
            self._set(stream_id, _CLOSED)
            self._send(stream_id, RESPONSE, 0, _failure(error))

    def send_data(self, stream_id: int, payload: bytes | None, *, end: bool = False) -> None:
        """A message of a stream (None: none, to end it only); closed by now: dropped. ResourceExhausted if too large.

        After ``end`` a client waits for the rest of the answer; for a server the call is over.
        """
        if payload is not None and len(payload) > MAX_BODY:
            raise ResourceExhausted(f"message of {len(payload)} bytes, more than the {MAX_BODY} allowed")
        if self._client:
            if stream_id in self._states and stream_id not in self._sending:
                raise Internal(f"stream {stream_id}: not open for data of ours")
            if stream_id not in self._states:
                return
            if end:
                self._sending.discard(stream_id)
        elif not self._ours(stream_id):
            return
        elif end:
            self._set(stream_id, _CLOSED)
        flags = (REMOTE_CLOSED if end else 0) | (NO_DATA if payload is None else 0)
        self._send(stream_id, DATA, flags, payload or b"")

    def forget(self, stream_id: int) -> None:
        """Give a call up as a client: ttrpc has no way to tell the server, and what it still answers is ignored."""
        self._set(stream_id, _CLOSED)

    def _ours(self, stream_id: int) -> bool:
        """Whether a server may still answer; Internal for what no peer can have caused."""
        if self._client or stream_id > self._last:
            raise Internal(f"stream {stream_id}: an answer that nobody asked for")
        return stream_id in self._states


def _failure(error: BaseException) -> bytes:
    return encode(tables.Response, {"status": {"code": code_of(error), "message": str(error)[:4096]}})
