"""The sending half of a connection: frames out, flow control towards the peer, and the streams both halves share.

``H2Connection`` is made of this, ``control.py`` and ``receiving.py``; users see only that. Data that the peer's windows
do not yet allow waits here in a queue of its stream, as the buffers that were given, uncopied.
"""

from __future__ import annotations

from collections import deque
from struct import Struct

from portside.wire.http2 import states
from portside.wire.http2.errors import LocalProtocolError
from portside.wire.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    MAX_WINDOW,
    frame,
    rst_stream,
    window_update,
)
from portside.wire.http2.hpack import NO_TABLE, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from portside.wire.http2.hpack import Field
    from portside.wire.http2.limits import Limits

    Buffer = bytes | bytearray | memoryview

_QUANTUM = 64 << 10  # what one stream may send before the next gets its turn, when many wait for the connection
_MAX_REMEMBERED = 1000
_END = b""  # stands in a queue for END_STREAM without trailers

RESET_BY_US = 1
RESET_BY_PEER = 2

_pack = FRAME_HEADER.pack


class PeerSettings:
    """What the peer's SETTINGS say, with the defaults of RFC 9113, section 6.5.2, until they come."""

    __slots__ = (
        "enable_push",
        "header_table_size",
        "initial_window",
        "max_concurrent_streams",
        "max_frame_size",
        "max_header_list_size",
    )

    def __init__(self) -> None:
        self.header_table_size = 4096
        self.enable_push = 1
        self.max_concurrent_streams = MAX_WINDOW
        self.initial_window = 65535
        self.max_frame_size = 16384
        self.max_header_list_size = MAX_WINDOW


class Stream:
    """One stream in use. Windows are what may still be sent in that direction; they can be negative."""

    # Defaults of the class: a short call never sets them.
    credit = 0  # acknowledged by the reader, not yet announced to the peer
    unread = 0  # received, not yet acknowledged by the reader
    expected = -1  # bytes of content still to come by content-length, -1 where it is not known
    head = False  # the request, or the final response, has come
    queue: deque[memoryview | tuple[bytes, bool] | bytes] | None = None

    def __init__(self, stream_id: int, state: int, window: int, send_window: int) -> None:
        self.id = stream_id
        self.state = state
        self.window = window
        self.send_window = send_window


class _Layout:
    """How a whole answer is packed, for one pair of sizes of its blocks: before the data, and after it."""

    __slots__ = ("after", "before", "head_word", "trailers_word")

    def __init__(self, head: int, trailers: int) -> None:
        self.before = Struct(f">IBI{head}sIBI").pack
        self.after = Struct(f">IBI{trailers}s").pack
        self.head_word = head << 8 | HEADERS
        self.trailers_word = trailers << 8 | HEADERS


_LAYOUTS: dict[tuple[int, int], _Layout] = {}


class Sending:
    """State and methods of the sending half; see ``H2Connection`` for the public ones."""

    def __init__(self, client: bool, limits: Limits) -> None:
        self.client = client
        self.limits = limits
        self.peer = PeerSettings()
        self._streams: dict[int, Stream] = {}
        self._out: list[Buffer] = []
        self._pongs = 0  # of what is queued, answers to PING
        self._send_window = 65535
        self._waiting: dict[int, Stream] = {}
        self._announce = NO_TABLE
        self._sent_something = False  # headers or data since the last PING (keepalive enforcement)
        self._gone: dict[int, int] = {}  # streams lately reset → by whom
        self._unread = 0
        self._queued = 0

    def data_to_send(self) -> bytes:
        """All that is queued for the peer, in one piece; the queue is empty then."""
        return b"".join(self.buffers_to_send())

    def buffers_to_send(self) -> list[Buffer]:
        """The same without copying, for ``sendmsg`` (mind IOV_MAX); what ``send_data`` got is among them."""
        out, self._out = self._out, []
        self._pongs = 0
        return out

    @property
    def has_only_pongs(self) -> bool:
        """Whether what is queued is answers to PING and nothing else: it can wait a little for company."""
        return 0 < self._pongs == len(self._out)

    def send_headers(self, stream_id: int, headers: bytes | Iterable[Field], end_stream: bool = False) -> None:
        """Send a header list, or a block made by ``hpack.encode``: a response, or with ``end_stream`` trailers.

        It waits behind data of this stream that waits for flow control. LocalProtocolError: the stream is over, or we
        have ended it.
        """
        stream = self._stream_to_send(stream_id, states.SEND_HEADERS)
        block = headers if isinstance(headers, bytes) else encode(headers)
        if stream.queue:
            stream.queue.append((block, end_stream))
            if end_stream:
                self._mark_end(stream)
            return
        self._write_headers(stream_id, block, end_stream)
        if end_stream:
            self._mark_end(stream)
            self._forget_if_closed(stream)

    def send_data(self, stream_id: int, *buffers: Buffer, end_stream: bool = False) -> bool:
        """Send the bytes of all ``buffers``, one after the other, in as few frames as the peer allows.

        Returns True if everything is queued for output. Otherwise the rest waits for the peer's WINDOW_UPDATE, and the
        event StreamWritable tells when it has gone: a writer should stop until then. Buffers are not copied and must
        not change before they are sent; memoryviews must be contiguous bytes. LocalProtocolError as for
        ``send_headers``.
        """
        stream = self._stream_to_send(stream_id, states.SEND_DATA)
        size = sum(map(len, buffers))
        queue = stream.queue
        if (
            not queue
            and size <= stream.send_window
            and size <= self._send_window
            and size <= self.peer.max_frame_size
            and (size or end_stream)
        ):
            self._sent_something = True
            self._send_window -= size
            stream.send_window -= size
            self._out.append(_pack(size << 8 | DATA, END_STREAM if end_stream else 0, stream_id))
            self._out.extend(buffers)
            if end_stream:
                self._mark_end(stream)
                self._forget_if_closed(stream)
            return True
        if queue is None:
            queue = stream.queue = deque()
        queue.extend(memoryview(buffer) for buffer in buffers if len(buffer))
        self._queued += size
        if end_stream:
            queue.append(_END)
            self._mark_end(stream)
        return self._pump(stream)

    def send_response(self, stream_id: int, head: bytes, data: bytes, trailers: bytes) -> bool:
        """Send a whole answer: ``head`` and ``trailers`` are blocks of ``hpack.encode``; returns as ``send_data`` does.

        The same as the three calls, in one piece where the windows and the frame size allow it.
        """
        stream = self._streams.get(stream_id)
        size = len(data)
        if (
            stream is None
            or stream.state != states.HALF_CLOSED_REMOTE
            or stream.queue
            or self._announce
            or size > stream.send_window
            or size > self._send_window
            or size > 16384
            or len(trailers) > 16384
            or len(head) > 16384
        ):
            self.send_headers(stream_id, head)
            sent = self.send_data(stream_id, data)
            self.send_headers(stream_id, trailers, True)
            return sent
        self._sent_something = True
        self._send_window -= size
        sizes = (len(head), len(trailers))
        layout = _LAYOUTS.get(sizes)
        if layout is None:
            layout = _LAYOUTS[sizes] = _Layout(*sizes)
        self._out.append(
            layout.before(layout.head_word, END_HEADERS, stream_id, head, size << 8 | DATA, 0, stream_id)
            + data
            + layout.after(layout.trailers_word, END_HEADERS | END_STREAM, stream_id, trailers)
        )
        del self._streams[stream_id]
        self._unread -= stream.unread
        return True

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM and forget the stream with what waits in its queue; nothing happens if it is over already."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._out.append(rst_stream(stream_id, code))
            self._drop(stream, RESET_BY_US)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """``size`` received bytes of this stream are used; the peer gets credit for them, in large steps."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size = min(size, stream.unread)
        stream.unread -= size
        self._unread -= size
        stream.credit += size
        if stream.credit >= self.limits.initial_window // 2 and stream.state < states.HALF_CLOSED_REMOTE:
            self._out.append(window_update(stream_id, stream.credit))
            stream.window += stream.credit
            stream.credit = 0
        self._replenish()

    def waiting(self, stream_id: int) -> int:
        """Bytes of this stream that wait for flow control."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.queue:
            return 0
        return sum(len(item) for item in stream.queue if isinstance(item, memoryview))

    def is_open(self, stream_id: int) -> bool:
        """Whether the stream is in use: both sides may have ended it if its last data still waits for flow control."""
        return stream_id in self._streams

    @property
    def unsent(self) -> int:
        """Bytes of all streams that wait for flow control."""
        return self._queued

    @property
    def open_streams(self) -> int:
        """Streams in use, those included whose last data still waits for flow control."""
        return len(self._streams)

    # Below: shared by both halves, not for users.

    _window: int  # what the peer may still send on the connection; kept by the receiving half

    def _replenish(self) -> None:
        """Give the peer credit for the connection once half of it is used, unless too much lies unread already."""
        limits = self.limits
        if self._window > limits.connection_window // 2:
            return
        target = min(limits.connection_window, limits.max_unread - self._unread)
        if target > self._window:
            self._out.append(window_update(0, target - self._window))
            self._window = target

    def _stream_to_send(self, stream_id: int, event: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"cannot {states.EVENTS[event]} on stream {stream_id}: it is over or never was")
        if states.TABLE[stream.state][event] is None:
            raise LocalProtocolError(
                f"cannot {states.EVENTS[event]} on stream {stream_id}: it is {states.NAMES[stream.state]}"
            )
        return stream

    def _mark_end(self, stream: Stream) -> None:
        state = states.TABLE[stream.state][states.SEND_END]
        if state is None:
            raise LocalProtocolError(f"stream {stream.id} has been ended already")
        stream.state = state

    def _forget_if_closed(self, stream: Stream) -> None:
        if stream.state == states.CLOSED and not stream.queue:
            self._streams.pop(stream.id, None)
            self._unread -= stream.unread
            stream.unread = 0

    def _drop(self, stream: Stream, by: int) -> None:
        """The stream is reset: forget all of it except that it was."""
        self._queued -= self.waiting(stream.id)
        stream.state = states.CLOSED
        stream.queue = None
        self._waiting.pop(stream.id, None)
        self._streams.pop(stream.id, None)
        self._unread -= stream.unread
        stream.unread = 0
        self._remember(stream.id, by)

    def _remember(self, stream_id: int, by: int) -> None:
        gone = self._gone
        if len(gone) >= _MAX_REMEMBERED:
            del gone[next(iter(gone))]
        gone[stream_id] = by

    def _write_headers(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        self._sent_something = True
        if self._announce:
            block = self._announce + block
            self._announce = b""
        flags = END_STREAM if end_stream else 0
        most = self.peer.max_frame_size
        if len(block) <= most:
            self._out.append(_pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id) + block)
            return
        self._out.append(frame(HEADERS, flags, stream_id, block[:most]))
        for start in range(most, len(block), most):
            last = start + most >= len(block)
            part = block[start : start + most]
            self._out.append(frame(CONTINUATION, END_HEADERS if last else 0, stream_id, part))

    def _pump(self, stream: Stream, quota: int = MAX_WINDOW) -> bool:
        """Write what is queued on ``stream`` as far as windows and ``quota`` allow; True if nothing is left."""
        queue = stream.queue
        out = self._out
        while queue:
            item = queue[0]
            if isinstance(item, tuple):
                queue.popleft()
                self._write_headers(stream.id, *item)
                continue
            if item is _END:
                queue.popleft()
                out.append(_pack(DATA, END_STREAM, stream.id))
                continue
            room = min(stream.send_window, self._send_window, self.peer.max_frame_size, quota)
            if room <= 0:
                self._waiting[stream.id] = stream
                return False
            parts, size = _take(queue, room)
            end = bool(queue) and queue[0] is _END
            if end:
                queue.popleft()
            self._sent_something = True
            stream.send_window -= size
            self._send_window -= size
            self._queued -= size
            quota -= size
            out.append(_pack(size << 8 | DATA, END_STREAM if end else 0, stream.id))
            out += parts
        self._waiting.pop(stream.id, None)
        self._forget_if_closed(stream)
        return True

    def _pump_all(self) -> list[int]:
        """The connection's window has grown: each waiting stream in turn; returns those that have nothing left."""
        done = []
        moving = True
        while moving and self._send_window > 0:
            moving = False
            for stream in list(self._waiting.values()):
                if stream.send_window > 0:
                    moving = True
                    if self._pump(stream, _QUANTUM):
                        done.append(stream.id)
                    if self._send_window <= 0:
                        break
                    # To the end of the line.
                    if self._waiting.pop(stream.id, None) is not None:
                        self._waiting[stream.id] = stream
        return done


def _take(queue: deque[memoryview | tuple[bytes, bool] | bytes], room: int) -> tuple[list[memoryview], int]:
    """Up to ``room`` bytes from the front of ``queue``, and how many these are."""
    parts = []
    size = 0
    while queue and size < room:
        view = queue[0]
        if not isinstance(view, memoryview):
            break
        left = room - size
        if len(view) > left:
            parts.append(view[:left])
            queue[0] = view[left:]
            return parts, room
        parts.append(view)
        size += len(view)
        queue.popleft()
    return parts, size
