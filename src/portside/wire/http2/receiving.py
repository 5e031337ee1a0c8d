"""The receiving half of a connection: bytes in, frames judged, events out; HEADERS, CONTINUATION and DATA.

``H2Connection`` is made of this, ``control.py`` and ``sending.py``. A rule that the peer breaks is raised here as
RemoteProtocolError and turned into RST_STREAM or GOAWAY in one place, ``H2Connection.receive_data``.
"""

from __future__ import annotations

from portside.wire.http2 import states
from portside.wire.http2.control import Control
from portside.wire.http2.errors import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    RemoteProtocolError,
)
from portside.wire.http2.events import (
    DataReceived,
    Event,
    HeadersReceived,
    StreamReset,
)
from portside.wire.http2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    PADDED,
    PREFACE,
    PRIORITIZED,
    SETTINGS,
    WORD,
    rst_stream,
)
from portside.wire.http2.headers import REQUEST, RESPONSE, TRAILERS, check
from portside.wire.http2.sending import RESET_BY_PEER, RESET_BY_US, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.wire.http2.hpack import Headers
    from portside.wire.http2.limits import Limits

_STATE_OF_REQUEST = (states.OPEN, states.HALF_CLOSED_REMOTE)  # by END_STREAM
_unpack = FRAME_HEADER.unpack_from


class Receiving(Control):
    """State and methods of the receiving half; see ``H2Connection`` for the public ones."""

    def __init__(self, client: bool, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(client, limits, clock)
        self._held: list[bytes] = []  # bytes of a frame that is not complete
        self._held_size = 0
        self._needed = 0
        self._preface = b"" if client else PREFACE
        self._fragments: list[bytes] = []  # a header block that waits for CONTINUATION
        self._fragments_size = 0
        self._continued: tuple[int, int] | None = None  # its stream and flags
        self._on = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    def _feed(self, data: bytes, events: list[Event]) -> None:
        """Take bytes; complete frames are handled, the rest is kept."""
        if self._held:
            self._held.append(data)
            self._held_size += len(data)
            if self._held_size < self._needed:
                return
            data = b"".join(self._held)
            self._held.clear()
        if self._preface:
            data = self._check_preface(data)
        offset = 0
        size = len(data)
        most = self.limits.max_frame_size
        on = self._on
        while size - offset >= 9:
            word, flags, stream_id = _unpack(data, offset)
            length = word >> 8
            kind = word & 0xFF
            if length > most:
                raise RemoteProtocolError(f"a frame of {length} bytes", FRAME_SIZE_ERROR)
            end = offset + 9 + length
            if not self._settled and (kind != SETTINGS or flags & ACK):
                raise RemoteProtocolError("the first frame is not SETTINGS")  # section 3.4
            if self._continued is not None and kind != CONTINUATION:  # section 6.10
                raise RemoteProtocolError("another frame within a header block")
            if end > size:
                break
            try:
                if kind < 10:
                    on[kind](data, offset + 9, end, flags, stream_id & 0x7FFFFFFF, events)
                else:
                    self._spend("ignored")  # section 4.1: unknown types are ignored
            except RemoteProtocolError as error:
                if not error.stream_id:
                    raise
                self._break_stream(error, events)
            offset = end
        if offset < size:
            rest = data[offset:]
            self._held.append(rest)
            self._held_size = len(rest)
            self._needed = 9 if len(rest) < 9 else 9 + (WORD.unpack_from(rest)[0] >> 8)

    def _check_preface(self, data: bytes) -> bytes:
        """Take the client's preface (section 3.4) from the front of ``data``."""
        preface = self._preface
        size = min(len(preface), len(data))
        if data[:size] != preface[:size]:
            raise RemoteProtocolError("not the preface of HTTP/2")
        self._preface = preface[size:]
        return data[size:]

    def _break_stream(self, error: RemoteProtocolError, events: list[Event]) -> None:
        """Answer a stream error (section 5.4.2)."""
        stream_id = error.stream_id
        stream = self._streams.get(stream_id)
        self._out.append(rst_stream(stream_id, error.code))
        if stream is not None:
            self._drop(stream, RESET_BY_US)
            events.append(StreamReset(stream_id, error.code, False, str(error)))
        else:
            self._remember(stream_id, RESET_BY_US)
        self._spend("reset")

    # HEADERS and CONTINUATION (sections 6.2, 6.10)

    def _on_headers(self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]) -> None:
        if flags & (PADDED | PRIORITIZED):
            start, end = self._unpad(data, start, end, flags)
            if flags & PRIORITIZED:  # deprecated (section 5.3.2): skipped
                start += 5
                if start > end:
                    raise RemoteProtocolError("HEADERS too short for a priority", FRAME_SIZE_ERROR)
        if not stream_id:
            raise RemoteProtocolError("HEADERS on stream 0")
        block = data[start:end]
        if not flags & END_HEADERS:
            self._fragments = [block]
            self._fragments_size = len(block)
            self._continued = (stream_id, flags)
            return
        headers = self._decoder.seen.get(block)
        if (
            headers is not None
            and headers.checked == REQUEST  # so it was taken before, and is well-formed
            and headers.content_length < 0
            and stream_id > self._last_stream_id
            and stream_id & 1
            and self._goaway_sent is None
            and len(self._streams) < self.limits.max_concurrent_streams
        ):
            # The way of nearly all requests; what differs goes through the same judgements one by one.
            self._last_stream_id = stream_id
            end_stream = flags & END_STREAM
            stream = self._streams[stream_id] = Stream(
                stream_id, _STATE_OF_REQUEST[end_stream], self._stream_window, self.peer.initial_window
            )
            stream.head = True
            events.append(HeadersReceived(stream_id, headers, bool(end_stream), False))
            return
        self._on_block(block, flags & END_STREAM, stream_id, events)

    def _on_continuation(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]
    ) -> None:
        if self._continued is None or self._continued[0] != stream_id:
            raise RemoteProtocolError("CONTINUATION of nothing")
        if start == end:
            self._spend("empty")
        self._fragments.append(data[start:end])
        self._fragments_size += end - start
        if self._fragments_size > self.limits.max_header_block:
            raise RemoteProtocolError("a header block too large", ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            flags = self._continued[1]
            block = b"".join(self._fragments)
            self._fragments = []
            self._continued = None
            self._on_block(block, flags & END_STREAM, stream_id, events)
        elif len(self._fragments) > self.limits.max_continuations:
            raise RemoteProtocolError("too many CONTINUATION frames", ENHANCE_YOUR_CALM)

    def _on_block(self, block: bytes, end_stream: int, stream_id: int, events: list[Event]) -> None:
        """A whole header block; it is decoded whatever becomes of it, since the table must stay in step."""
        if len(block) > self.limits.max_header_block:
            raise RemoteProtocolError("a header block too large", ENHANCE_YOUR_CALM)
        headers = self._decoder.decode(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            if self.client or not stream_id & 1:
                self._spend("ignored")
                self._judge_missing(stream_id, "HEADERS")
            else:
                self._on_request(headers, end_stream, stream_id, events)
            return
        if states.TABLE[stream.state][states.RECEIVE_HEADERS] is None:
            raise RemoteProtocolError(f"HEADERS on a {states.NAMES[stream.state]} stream", STREAM_CLOSED, stream_id)
        if headers.size > self.limits.max_header_list_size:
            raise RemoteProtocolError("a header list too large", ENHANCE_YOUR_CALM, stream_id)
        trailers = stream.head
        if trailers:
            if not end_stream:
                raise RemoteProtocolError("trailers that do not end the stream", PROTOCOL_ERROR, stream_id)
            check(headers, TRAILERS, stream_id)
        else:
            check(headers, RESPONSE, stream_id)
            if headers.fields[0][1][:1] != b"1":
                stream.head = True
                stream.expected = headers.content_length
            elif end_stream:
                raise RemoteProtocolError("an informational response that ends the stream", PROTOCOL_ERROR, stream_id)
        events.append(HeadersReceived(stream_id, headers, bool(end_stream), trailers))
        if end_stream:
            self._end(stream)

    def _on_request(self, headers: Headers, end_stream: int, stream_id: int, events: list[Event]) -> None:
        """The first header list of a stream of the client (section 5.1.1)."""
        if stream_id <= self._last_stream_id:
            self._spend("ignored")
            self._judge_missing(stream_id, "HEADERS")
            return
        if self._goaway_sent is not None and stream_id > self._goaway_sent:
            return  # section 6.8: the client knows that this was not processed
        self._last_stream_id = stream_id
        if len(self._streams) >= self.limits.max_concurrent_streams:
            raise RemoteProtocolError("too many streams", REFUSED_STREAM, stream_id)
        if headers.size > self.limits.max_header_list_size:
            raise RemoteProtocolError("a header list too large", ENHANCE_YOUR_CALM, stream_id)
        if headers.checked != REQUEST:
            check(headers, REQUEST, stream_id)
        if end_stream and headers.content_length > 0:
            raise RemoteProtocolError("less content than content-length says", PROTOCOL_ERROR, stream_id)
        stream = Stream(
            stream_id,
            _STATE_OF_REQUEST[end_stream],
            self._stream_window,
            self.peer.initial_window,
        )
        stream.head = True
        stream.expected = headers.content_length
        self._streams[stream_id] = stream
        events.append(HeadersReceived(stream_id, headers, bool(end_stream), False))

    def _judge_missing(self, stream_id: int, what: str) -> None:
        """A frame with content on a stream that is not in use: who closed it decides (section 5.1, closed)."""
        if self._is_idle(stream_id):
            if self._goaway_sent is not None and not self.client and stream_id & 1:
                return
            raise RemoteProtocolError(f"{what} on idle stream {stream_id}")
        by = self._gone.get(stream_id)
        if by == RESET_BY_US:
            return  # the peer may not have known
        if by == RESET_BY_PEER:
            raise RemoteProtocolError(f"{what} after RST_STREAM", STREAM_CLOSED, stream_id)
        raise RemoteProtocolError(f"{what} after END_STREAM on stream {stream_id}", STREAM_CLOSED)

    def _end(self, stream: Stream) -> None:
        """The peer has ended its side."""
        if stream.expected > 0:
            raise RemoteProtocolError("less content than content-length says", PROTOCOL_ERROR, stream.id)
        state = states.TABLE[stream.state][states.RECEIVE_END]
        assert state is not None  # its callers have looked up the frame that carries the flag
        stream.state = state
        self._forget_if_closed(stream)

    # DATA (section 6.1)

    def _on_data(self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]) -> None:
        size = end - start
        self._window -= size
        if self._window < 0:
            raise RemoteProtocolError("more data than the connection's window", FLOW_CONTROL_ERROR)
        stream = self._streams.get(stream_id)
        if stream is None:
            if not stream_id:
                raise RemoteProtocolError("DATA on stream 0")
            self._replenish()
            if not size:
                self._spend("empty")
            self._judge_missing(stream_id, "DATA")
            return
        if flags & PADDED:
            start, end = self._unpad(data, start, end, flags)
        state = states.TABLE[stream.state][states.RECEIVE_DATA]
        if state is None:
            raise RemoteProtocolError(f"DATA on a {states.NAMES[stream.state]} stream", STREAM_CLOSED, stream_id)
        stream.window -= size
        if stream.window < 0:
            raise RemoteProtocolError("more data than the stream's window", FLOW_CONTROL_ERROR, stream_id)
        if not stream.head:
            raise RemoteProtocolError("DATA before the response", PROTOCOL_ERROR, stream_id)
        if stream.expected >= 0:
            stream.expected -= end - start
            if stream.expected < 0:
                raise RemoteProtocolError("more content than content-length says", PROTOCOL_ERROR, stream_id)
        stream.unread += size
        self._unread += size
        if flags & END_STREAM:
            if stream.expected > 0 or stream.state == states.HALF_CLOSED_LOCAL:
                self._end(stream)
            else:
                stream.state = states.HALF_CLOSED_REMOTE
            events.append(DataReceived(stream_id, data[start:end], size, True))
        else:
            if start == end:
                self._spend("empty")
            events.append(DataReceived(stream_id, data[start:end], size, False))
        if self._window < self.limits.connection_window >> 1:
            self._replenish()

    def _unpad(self, data: bytes, start: int, end: int, flags: int) -> tuple[int, int]:
        """Where the content of a padded frame begins and ends."""
        if not flags & PADDED:
            return start, end
        if start == end:
            raise RemoteProtocolError("a padded frame without its length of padding", FRAME_SIZE_ERROR)
        padding = data[start]
        if padding >= end - start:
            raise RemoteProtocolError("more padding than the frame has")
        return start + 1, end - padding
