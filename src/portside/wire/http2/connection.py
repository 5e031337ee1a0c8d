"""One side of one HTTP/2 connection, client or server: bytes in → events out; calls in → bytes out. No IO.

Theory of operation. A shell owns the socket and does this, forever::

    connection = H2Connection(client=False)
    send(connection.data_to_send())                  # preface and SETTINGS are queued from the start
    while data := recv():
        for event in connection.receive_data(data):  # never raises for what a peer does
            ...                                      # call send_headers, send_data, acknowledge, reset_stream …
        send(connection.data_to_send())

The library below is not for browsers: no push, no priorities, no upgrade from HTTP/1.1, no extensions.

- **Blame.** What we do wrong raises LocalProtocolError and sends nothing. What the peer does wrong on a stream ends
  that stream (RST_STREAM is queued, StreamReset with ``by_peer=False`` tells); on the connection it queues GOAWAY,
  ConnectionFailed is the last event ever, and all streams are over. The states of a stream are a table (``states.py``).
- **Flow control out.** ``send_data`` takes all it gets and keeps what the windows forbid. It says so: a writer that
  heeds its result (False: wait for StreamWritable) makes a slow reader slow itself and not our memory full.
- **Flow control in.** Each DataReceived counts against the windows until ``acknowledge``. Not acknowledging is how a
  slow consumer slows its peer. A stream that ends, or is reset, is acknowledged as a whole.
- **Batches.** ``receive_data`` judges all bytes before it returns. A stream may be over when its first event is read,
  since a later one in the same list resets it: ask ``is_open`` before sending in reply, or be ready for
  LocalProtocolError.
- **Limits.** All in ``limits.Limits``; what exceeds one gets the reaction documented there.
- **Interleaving.** After any call, bytes may be waiting in ``data_to_send()``; bytes of different streams may be mixed.
"""

from __future__ import annotations

from time import monotonic

from portside.wire.http2 import states
from portside.wire.http2.control import DRAIN_PING
from portside.wire.http2.errors import ENHANCE_YOUR_CALM, NO_ERROR, LocalProtocolError, RemoteProtocolError
from portside.wire.http2.events import ConnectionFailed, Event
from portside.wire.http2.frames import (
    MAX_STREAM_ID,
    PING,
    PREFACE,
    SETTINGS_ENABLE_PUSH,
    SETTINGS_HEADER_TABLE_SIZE,
    SETTINGS_INITIAL_WINDOW_SIZE,
    SETTINGS_MAX_CONCURRENT_STREAMS,
    SETTINGS_MAX_FRAME_SIZE,
    SETTINGS_MAX_HEADER_LIST_SIZE,
    frame,
    goaway,
    settings,
    window_update,
)
from portside.wire.http2.hpack import encode
from portside.wire.http2.limits import Limits
from portside.wire.http2.receiving import Receiving
from portside.wire.http2.sending import RESET_BY_US, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portside.wire.http2.hpack import Field

_DEFAULTS = Limits()

__all__ = ["H2Connection"]


class H2Connection(Receiving):
    """One side of one connection.

    Both roles: ``receive_data``, ``data_to_send`` or ``buffers_to_send``, ``send_headers``, ``send_data``,
    ``acknowledge``, ``reset_stream``, ``is_open``, ``waiting``, ``ping``, ``close``. Clients: ``open_stream``,
    ``can_open_stream``. Servers: ``send_response``, ``drain``. ``peer`` has the settings of the other side.
    """

    def __init__(self, client: bool, limits: Limits = _DEFAULTS, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(client, limits, clock)
        self._failed = False
        values = {
            SETTINGS_HEADER_TABLE_SIZE: limits.header_table_size,
            SETTINGS_INITIAL_WINDOW_SIZE: limits.initial_window,
            SETTINGS_MAX_FRAME_SIZE: limits.max_frame_size,
            SETTINGS_MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
        }
        if client:
            self._out.append(PREFACE)
            values[SETTINGS_ENABLE_PUSH] = 0
        else:
            values[SETTINGS_MAX_CONCURRENT_STREAMS] = limits.max_concurrent_streams
        self._out.append(settings(values))
        if limits.connection_window > 65535:
            self._out.append(window_update(0, limits.connection_window - 65535))

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; returns what they mean, in order. After ConnectionFailed nothing is taken."""
        events: list[Event] = []
        if self._failed:
            return events
        try:
            self._feed(data, events)
        except RemoteProtocolError as error:
            self._failed = True
            for stream in list(self._streams.values()):
                self._drop(stream, RESET_BY_US)
            debug = str(error).encode() if error.code == ENHANCE_YOUR_CALM else b""
            self._out.append(goaway(self._last_stream_id, error.code, debug))
            events.append(ConnectionFailed(error))
        return events

    @property
    def can_open_stream(self) -> bool:
        """Whether ``open_stream`` would work now: neither side is going away, and the peer takes one more."""
        return (
            not self._failed
            and self._goaway_received is None
            and self._goaway_sent is None
            and len(self._streams) < self.peer.max_concurrent_streams
            and self._next_stream_id <= MAX_STREAM_ID
        )

    @property
    def going_away(self) -> bool:
        """Whether one of both sides has sent GOAWAY, or the connection has failed: no new stream will be taken."""
        return self._failed or self._goaway_received is not None or self._goaway_sent is not None

    def open_stream(self, headers: bytes | Iterable[Field], end_stream: bool = False) -> int:
        """Send a request (fields, pseudo-headers first, or a block of ``hpack.encode``); returns the stream's number.

        LocalProtocolError if ``can_open_stream`` is False, or on a server.
        """
        if not self.client or not self.can_open_stream:
            raise LocalProtocolError("no stream can be opened: " + ("going away" if self.going_away else "too many"))
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        self._streams[stream_id] = Stream(stream_id, states.OPEN, self._stream_window, self.peer.initial_window)
        self.send_headers(stream_id, headers if isinstance(headers, bytes) else encode(headers), end_stream)
        return stream_id

    def ping(self, payload: bytes) -> None:
        """Send a PING with these 8 bytes; PingAcknowledged brings them back."""
        if len(payload) != 8:
            raise LocalProtocolError("a PING carries 8 bytes")
        self._out.append(frame(PING, 0, 0, payload))

    def drain(self) -> None:
        """Begin a graceful end (RFC 9113, section 6.8): the client is told to open no more streams.

        Requests already on their way are still taken: a second GOAWAY follows when the client answers a PING. The
        connection is over when ``open_streams`` is 0 after that (``drained``); closing is the shell's part.
        """
        if self._goaway_sent is None:
            self._goaway_sent = MAX_STREAM_ID
            self._out.append(goaway(MAX_STREAM_ID, NO_ERROR))
            self.ping(DRAIN_PING)

    @property
    def drained(self) -> bool:
        """Whether ``drain`` is complete: the last GOAWAY is queued and no stream is in use."""
        return self._goaway_sent is not None and self._goaway_sent != MAX_STREAM_ID and not self._streams

    def close(self, code: int = NO_ERROR, debug: bytes = b"") -> None:
        """Queue the last GOAWAY: streams of the peer not seen yet are not taken. Closing is the shell's part."""
        if not self._failed and (self._goaway_sent is None or self._goaway_sent > self._last_stream_id):
            self._goaway_sent = self._last_stream_id
            self._out.append(goaway(self._last_stream_id, code, debug))
