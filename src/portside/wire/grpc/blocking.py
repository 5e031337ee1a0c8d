"""The smallest gRPC client: blocking, one call at a time, messages as bytes. For commands, where each import counts.

What does not belong here: messages (``wire/codec.py``), client streaming, TLS, TCP; see ``client.py`` for asyncio.
It speaks its own subset of HTTP/2 instead of using ``wire/http2``, whose import takes longer than a call: requests
are built from constants (``plain_hpack.py``), answers are read in full, and only a header block that uses more of
HPACK than servers of ours do brings in the real decoder. Each streamed answer gets a connection of its own, so that
its descriptor can be polled and other calls never mix with it.

Long, as one module is one import for a command, and because it is a whole protocol, from the socket to the status.

Source: RFC 9113, RFC 7541, "gRPC over HTTP/2".
"""

from __future__ import annotations

import _socket
from struct import Struct
from time import monotonic

from portside.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    PortsideError,
    ResourceExhausted,
    Unavailable,
    Unknown,
    from_oserror,
)
from portside.wire.grpc.plain_hpack import plain_fields, request_head
from portside.wire.status import error_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portside.wire.http2.hpack import Decoder

    Field = tuple[bytes, bytes]

MAX_MESSAGE = 16 << 20
"""Bytes of one answer; the limit of containerd's clients."""

_HEADER = Struct(">IBI")  # length (24 bits) and type, flags, stream
_PREFIX = Struct(">BI")
_WORD = Struct(">I")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY, _ACK = 1, 4, 8, 32, 1
_CANCEL = 8
_MAX_FRAME = 16384  # the protocol's default, which we do not raise
_MAX_BLOCK = 64 << 10
_WINDOW = 1 << 20  # what the peer may send before we give credit
_HELLO = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _HEADER.pack(18 << 8 | _SETTINGS, 0, 0)
    + b"\0\1\0\0\0\0"  # no dynamic header table
    + b"\0\2\0\0\0\0"  # no push
    + b"\0\4"
    + _WORD.pack(_WINDOW)
    + _HEADER.pack(4 << 8 | _WINDOW_UPDATE, 0, 0)
    + _WORD.pack(_WINDOW - 65535)
)


class BlockingChannel:
    """Calls to the server on the unix socket ``address`` (a path, or ``unix://path``). Whoever makes it closes it.

    It connects with the first call, and again where the server went away between two calls.
    """

    def __init__(self, address: str) -> None:
        self._path = address.removeprefix("unix://")
        self._line: _Line | None = None
        self._streams: list[BlockingStream] = []

    def unary(
        self, path: str, request: bytes, *, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None
    ) -> bytes:
        """The answer of ``/package.Service/Method``, or the error that the server answered with.

        ``timeout`` seconds are told to the server and kept here (DeadlineExceeded); None waits as long as it takes.
        Unavailable if nobody listens or the connection breaks.
        """
        metadata = tuple(metadata)
        deadline = None if timeout is None else monotonic() + timeout
        self._discard_stale()
        while True:
            fresh = self._line is None
            line = self._line = self._line or _Line(self._path, deadline)
            try:
                line.start(path, request, metadata, deadline)
                while not line.ended:
                    line.read(deadline)
                return line.answer(path)
            except _NotTaken:
                if fresh:
                    raise
            except BaseException:
                if not line.broken:
                    line.cancel()
                raise
            finally:
                if line.broken:
                    self._drop()

    def server_stream(
        self, path: str, request: bytes, *, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None
    ) -> BlockingStream:
        """Streamed answers, on a connection of their own. Errors of the call come out of the stream."""
        deadline = None if timeout is None else monotonic() + timeout
        line = _Line(self._path, deadline)
        try:
            line.start(path, request, tuple(metadata), deadline)
        except BaseException:
            line.close()
            raise
        stream = BlockingStream(line, deadline)
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        """Drop the connection and the streams; calls in progress there are cancelled by that."""
        self._drop()
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    def _discard_stale(self) -> None:
        """Let go of a connection that the server ended since the last call."""
        if self._line is not None:
            try:
                self._line.read_now()
            except PortsideError:
                self._line.broken = True
            if self._line.broken:
                self._drop()

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class BlockingStream:
    """Messages as they come: iterate to wait for them, or poll ``fileno`` and ``receive``."""

    def __init__(self, line: _Line, deadline: float | None) -> None:
        self._line = line
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        """Until the end; raises the error of the call if it failed."""
        line = self._line
        while True:
            while line.messages:
                yield line.messages.pop(0)
            if line.ended:
                line.check()
                return
            line.read(self._deadline)

    def fileno(self) -> int:
        """Readable whenever ``receive`` has something to give, the end included; -1 once closed."""
        return self._line.fileno()

    def receive(self) -> list[bytes] | None:
        """What has come, without waiting; None at the end, the error of the call if it failed."""
        line = self._line
        if not line.ended:
            line.read_now()
        if line.ended:
            line.shut()
        if line.messages:
            messages, line.messages = line.messages, []
            return messages
        if not line.ended:
            return []
        line.check()
        return None

    def close(self) -> None:
        """Give the call up if it is still going on, and close its connection. A second time does nothing."""
        self._line.close()


class _NotTaken(Unavailable):
    """The server did not begin with this call: it may be sent again elsewhere."""


class _Line:
    """A connection and the one call on it."""

    def __init__(self, path: str, deadline: float | None) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._peer = path
        self._buffer = bytearray()
        self._decoder: Decoder | None = None
        self._block: tuple[int, bytes] | None = None  # flags and beginning of a header block that goes on
        self._id = -1
        self._window = 65535  # of the connection, for what we send
        self._stream_window = self._initial_window = 65535
        self._credit = self._stream_credit = 0
        self.broken = False
        self.ended = True
        self.messages: list[bytes] = []
        self._head: dict[bytes, bytes] | None = None
        self._error: PortsideError | None = None
        self._held = bytearray()  # a message that is not complete
        try:
            self._wait(deadline)
            self._socket.connect(path)
            self._socket.sendall(_HELLO)
        except OSError as error:
            self.close()
            if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
                raise Unavailable(f"connect to {path}: {error.strerror}: nobody serves there") from error
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"connect to {path}: nobody accepts in time") from error
            raise from_oserror(error, f"connect to {path}") from error

    # Asking

    def start(self, path: str, request: bytes, metadata: tuple[tuple[str, str], ...], deadline: float | None) -> None:
        """Send a request whole; while the peer's windows are shut, what it sends is read."""
        block = request_head(path, metadata, deadline)
        self._id += 2
        self.ended = False
        self.messages = []
        self._head = None
        self._error = None
        self._held = bytearray()
        self._stream_window = self._initial_window
        self._stream_credit = 0
        body = _PREFIX.pack(0, len(request)) + request
        out = _HEADER.pack(len(block) << 8 | _HEADERS, _END_HEADERS, self._id) + block
        sent = 0
        while not self.ended and sent < len(body):
            room = min(self._window, self._stream_window, _MAX_FRAME)
            if room <= 0:
                self._send(out, deadline)
                out = b""
                self.read(deadline)
                continue
            part = body[sent : sent + room]
            sent += len(part)
            self._window -= len(part)
            self._stream_window -= len(part)
            last = _END_STREAM if sent == len(body) else 0
            out += _HEADER.pack(len(part) << 8 | _DATA, last, self._id) + part
            if len(out) > 1 << 18:
                self._send(out, deadline)
                out = b""
        self._send(out, deadline)

    def cancel(self) -> None:
        """Tell the server that nobody waits any more."""
        if not self.ended:
            self.ended = True
            try:
                self._send(_HEADER.pack(4 << 8 | _RST_STREAM, 0, self._id) + _WORD.pack(_CANCEL), None)
            except PortsideError:
                pass  # then it knows

    def answer(self, path: str) -> bytes:
        """The one message of a unary call."""
        self.check()
        if len(self.messages) != 1:
            raise Internal(f"{path}: {len(self.messages)} messages in the answer to a unary call")
        return self.messages.pop()

    def check(self) -> None:
        """Raise the error with which the call ended, if it did."""
        if self._error is not None:
            raise self._error

    # Moving bytes

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.broken = True
        self._socket.close()

    def _wait(self, deadline: float | None) -> None:
        """Let the socket wait until ``deadline``."""
        left = None if deadline is None else deadline - monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _send(self, data: bytes, deadline: float | None) -> None:
        try:
            self._wait(deadline)
            self._socket.sendall(data)
        except TimeoutError:
            self.broken = True  # who knows how much of it went
            raise DeadlineExceeded(f"call to {self._peer}: no time left while sending") from None
        except OSError as error:
            self.broken = True
            raise Unavailable(f"send to {self._peer}: {error.strerror}") from error

    def read(self, deadline: float | None) -> None:
        """Wait for something and take it in."""
        try:
            self._wait(deadline)
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            raise DeadlineExceeded(f"call to {self._peer}: no answer in time") from None
        except OSError as error:
            self.broken = True
            raise Unavailable(f"receive from {self._peer}: {error.strerror}") from error
        self._take(data)

    def read_now(self) -> None:
        """Take in what is there."""
        try:
            self._socket.settimeout(0)
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken = True
            raise Unavailable(f"receive from {self._peer}: {error.strerror}") from error
        self._take(data)

    def _take(self, data: bytes) -> None:
        if not data:
            self.broken = True
            raise Unavailable(f"{self._peer}: the server closed the connection")
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 9:
            word, flags, stream_id = _HEADER.unpack_from(buffer, start)
            end = start + 9 + (word >> 8)
            if word >> 8 > _MAX_FRAME:
                raise self._fault("a frame too large")
            if end > len(buffer):
                break
            payload = bytes(buffer[start + 9 : end])
            start = end
            try:
                self._frame(word & 0xFF, flags, stream_id & 0x7FFFFFFF, payload)
            except (IndexError, ValueError) as error:
                raise self._fault(str(error) or "a frame too short") from None
        del buffer[:start]

    def _fault(self, what: str) -> PortsideError:
        self.broken = True
        return Internal(f"{self._peer} does not speak HTTP/2 as it should: {what}")

    # What came

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and kind != _CONTINUATION:
            raise ValueError("a header block that is not continued")
        if kind == _DATA:
            self._data(flags, stream_id, payload)
        elif kind == _HEADERS:
            payload = _unpad(payload, flags)
            if flags & _PRIORITY:
                payload = payload[5:]
            self._headers(flags, stream_id, payload)
        elif kind == _CONTINUATION:
            if self._block is None:
                raise ValueError("CONTINUATION of nothing")
            before, beginning = self._block
            self._block = None
            self._headers(before | flags & _END_HEADERS, stream_id, beginning + payload)
        elif kind == _RST_STREAM and stream_id == self._id and not self.ended:
            self._reset(_number(payload))
        elif kind == _SETTINGS and not flags & _ACK:
            for start in range(0, len(payload) - 5, 6):
                if payload[start : start + 2] == b"\0\4":
                    value = _number(payload[start + 2 : start + 6])
                    self._stream_window += value - self._initial_window
                    self._initial_window = value
            self._send(_HEADER.pack(_SETTINGS, _ACK, 0), None)
        elif kind == _PING and not flags & _ACK:
            self._send(_HEADER.pack(len(payload) << 8 | _PING, _ACK, 0) + payload, None)
        elif kind == _WINDOW_UPDATE:
            if not stream_id:
                self._window += _number(payload)
            elif stream_id == self._id:
                self._stream_window += _number(payload)
        elif kind == _GOAWAY:
            self.broken = True  # no further call on this connection; the present one may end
            if _number(payload[:4]) & 0x7FFFFFFF < self._id and not self.ended:
                raise _NotTaken(f"{self._peer}: the server is going away")

    def _reset(self, code: int) -> None:
        if code == 7:  # REFUSED_STREAM
            self.broken = True
            raise _NotTaken(f"{self._peer}: the server refused the call")
        if code == 0 and self._head is not None and b"grpc-status" in self._head:
            return
        from portside.wire.grpc.protocol import error_of_reset

        self._end(Cancelled("the server cancelled the call") if code == _CANCEL else error_of_reset(code))

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._credit += len(payload)
        out = b""
        if self._credit >= _WINDOW // 2:
            out = _HEADER.pack(4 << 8 | _WINDOW_UPDATE, 0, 0) + _WORD.pack(self._credit)
            self._credit = 0
        if stream_id == self._id and not self.ended:
            self._stream_credit += len(payload)
            self._content(_unpad(payload, flags))
            if flags & _END_STREAM:
                self._end(Internal("the answer ended without a status"))
            elif self._stream_credit >= _WINDOW // 2 and not self.ended:
                out += _HEADER.pack(4 << 8 | _WINDOW_UPDATE, 0, stream_id) + _WORD.pack(self._stream_credit)
                self._stream_credit = 0
        if out:
            self._send(out, None)

    def _content(self, data: bytes) -> None:
        """Cut what has come into messages."""
        held = self._held
        held += data
        start = 0
        while len(held) - start >= 5:
            packed, length = _PREFIX.unpack_from(held, start)
            if length > MAX_MESSAGE:
                self._end(ResourceExhausted(f"a message of {length} bytes; the limit is {MAX_MESSAGE}"), cancel=True)
                return
            end = start + 5 + length
            if len(held) < end:
                break
            message = bytes(held[start + 5 : end])
            start = end
            if packed:
                try:
                    message = self._unpack(message)
                except PortsideError as error:
                    self._end(error, cancel=True)
                    return
            self.messages.append(message)
        del held[:start]

    def _unpack(self, message: bytes) -> bytes:
        if self._head is None or self._head.get(b"grpc-encoding") != b"gzip":
            raise Internal("a compressed message without a grpc-encoding that we know")
        from portside.wire.grpc.protocol import decompress

        return decompress(message, MAX_MESSAGE)

    def _headers(self, flags: int, stream_id: int, block: bytes) -> None:
        if len(block) > _MAX_BLOCK:
            raise ValueError("a header block too large")
        if not flags & _END_HEADERS:
            self._block = (flags, block)
            return
        fields = dict(self._fields(block))
        if stream_id != self._id or self.ended or fields.get(b":status", b"")[:1] == b"1":
            return
        if self._head is None:
            self._head = fields
            if fields.get(b":status") != b"200" and b"grpc-status" not in fields:
                from portside.wire.grpc.protocol import error_of_http

                self._end(error_of_http(fields.get(b":status", b"")), cancel=not flags & _END_STREAM)
                return
        if flags & _END_STREAM:
            self._end(_status(fields, bool(self._held)))

    def _fields(self, block: bytes) -> list[Field]:
        if self._decoder is None:
            fields = plain_fields(block)
            if fields is not None:
                return fields
            from portside.wire.http2.hpack import Decoder

            self._decoder = Decoder()
        from portside.wire.http2.errors import RemoteProtocolError

        try:
            return list(self._decoder.decode(block).fields)
        except RemoteProtocolError as error:
            raise ValueError(str(error)) from None

    def _end(self, error: PortsideError | None, cancel: bool = False) -> None:
        """The call is over."""
        if cancel:
            self.cancel()
        self.ended = True
        self._error = error

    def shut(self) -> None:
        """Make the descriptor readable for good, so that who polls it learns of an end that came with the messages."""
        try:
            self._socket.shutdown(_socket.SHUT_RD)
        except OSError:
            pass  # the peer was quicker


def _status(fields: dict[bytes, bytes], truncated: bool) -> PortsideError | None:
    """What the trailers say."""
    code = fields.get(b"grpc-status", b"")
    if not code.isdigit() or len(code) > 9:
        return Unknown("the answer ended without a status")
    if code == b"0":
        return Internal("the answer ended in the middle of a message") if truncated else None
    message = fields.get(b"grpc-message", b"")
    if b"%" in message:
        from portside.wire.grpc.protocol import decode_message

        return error_of(int(code), decode_message(message))
    return error_of(int(code), message.decode("utf-8", "replace"))


def _number(payload: bytes) -> int:
    if len(payload) != 4:
        raise ValueError("a frame of a wrong size")
    return int.from_bytes(payload, "big")


def _unpad(payload: bytes, flags: int) -> bytes:
    """Without padding."""
    if not flags & _PADDED:
        return payload
    if payload[0] >= len(payload):
        raise ValueError("more padding than content")
    return payload[1 : len(payload) - payload[0]]
