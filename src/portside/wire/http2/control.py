"""The frames that carry neither headers nor data: what a peer says about streams, windows, settings and itself.

Between ``sending.py`` and ``receiving.py``, of which ``H2Connection`` is made. Rules that the peer breaks are raised as
RemoteProtocolError.
"""

from __future__ import annotations

from portside.wire.http2.errors import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RemoteProtocolError,
)
from portside.wire.http2.events import (
    Event,
    GoAwayReceived,
    PingAcknowledged,
    SettingsReceived,
    StreamReset,
    StreamWritable,
)
from portside.wire.http2.frames import (
    ACK,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PING,
    SETTING,
    SETTINGS,
    SETTINGS_ENABLE_PUSH,
    SETTINGS_HEADER_TABLE_SIZE,
    SETTINGS_INITIAL_WINDOW_SIZE,
    SETTINGS_MAX_CONCURRENT_STREAMS,
    SETTINGS_MAX_FRAME_SIZE,
    SETTINGS_MAX_HEADER_LIST_SIZE,
    TWO_WORDS,
    WORD,
    frame,
    goaway,
)
from portside.wire.http2.hpack import Decoder
from portside.wire.http2.limits import FORGIVEN_TO_SERVERS
from portside.wire.http2.sending import RESET_BY_PEER, RESET_BY_US, Sending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.wire.http2.limits import Limits

DRAIN_PING = b"drain\0\0\0"
_SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")


class Control(Sending):
    """State and methods for these frames; see ``H2Connection`` for the public ones."""

    def __init__(self, client: bool, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(client, limits)
        self._clock = clock
        self._decoder = Decoder(limits.header_table_size, limits.max_header_list_size)
        self._window = max(limits.connection_window, 65535)
        self._stream_window = max(limits.initial_window, 65535)  # the default holds until the peer acknowledges
        self._settled = False  # the peer's first SETTINGS have come
        self._last_stream_id = 0  # highest stream of the peer that we took
        self._next_stream_id = 1 if client else 2
        self._goaway_sent: int | None = None  # streams of the peer above this are ignored
        self._goaway_received: int | None = None
        self._buckets: dict[str, tuple[float, float]] = {}
        self._last_ping = float("-inf")
        self._strikes = 0

    def _spend(self, kind: str) -> None:
        """Count a frame of a kind that must not come too often."""
        if self.client and kind in FORGIVEN_TO_SERVERS:
            return
        burst, rate = self.limits.bursts[kind]
        now = self._clock()
        tokens, then = self._buckets.get(kind, (float(burst), now))
        tokens = min(burst, tokens + (now - then) * rate) - 1
        if tokens < 0:
            raise RemoteProtocolError(f"too many frames of the kind {kind!r}", ENHANCE_YOUR_CALM)
        self._buckets[kind] = (tokens, now)

    def _is_idle(self, stream_id: int) -> bool:
        if stream_id & 1 == (self._next_stream_id & 1):
            return stream_id >= self._next_stream_id
        return stream_id > self._last_stream_id

    # Streams and the connection

    def _on_priority(self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]) -> None:
        """Deprecated (section 5.3.2): only its form is looked at."""
        if not stream_id:
            raise RemoteProtocolError("PRIORITY on stream 0")
        self._spend("ignored")
        if end - start != 5:
            if self._is_idle(stream_id):  # RST_STREAM is not allowed there
                raise RemoteProtocolError("PRIORITY of a wrong size", FRAME_SIZE_ERROR)
            raise RemoteProtocolError("PRIORITY of a wrong size", FRAME_SIZE_ERROR, stream_id)

    def _on_rst_stream(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]
    ) -> None:
        if not stream_id:
            raise RemoteProtocolError("RST_STREAM on stream 0")
        if end - start != 4:
            raise RemoteProtocolError("RST_STREAM of a wrong size", FRAME_SIZE_ERROR)
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id) and self._goaway_sent is None:
                raise RemoteProtocolError(f"RST_STREAM on idle stream {stream_id}")
            self._spend("reset")
            return
        self._drop(stream, RESET_BY_PEER)
        events.append(StreamReset(stream_id, WORD.unpack_from(data, start)[0], True))
        if not self.client:
            self._spend("reset")

    def _on_push_promise(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]
    ) -> None:
        raise RemoteProtocolError("PUSH_PROMISE, which is not enabled")  # section 8.4

    def _on_ping(self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]) -> None:
        if stream_id:
            raise RemoteProtocolError("PING on a stream")
        if end - start != 8:
            raise RemoteProtocolError("PING of a wrong size", FRAME_SIZE_ERROR)
        payload = data[start:end]
        if flags & ACK:
            if payload == DRAIN_PING and self._goaway_sent == MAX_STREAM_ID:
                self._goaway_sent = self._last_stream_id
                self._out.append(goaway(self._last_stream_id, NO_ERROR))
            events.append(PingAcknowledged(payload))
            return
        self._spend("ping")
        if not self.client:
            self._watch_keepalive()
        self._out.append(frame(PING, ACK, 0, payload))
        self._pongs += 1

    def _watch_keepalive(self) -> None:
        """A client that pings too often, and not because of what we sent, is told so (gRPC: keepalive enforcement)."""
        now = self._clock()
        if self._sent_something or now - self._last_ping >= self.limits.ping_interval:
            self._strikes = 0
        else:
            self._strikes += 1
            if self._strikes > self.limits.max_ping_strikes:
                raise RemoteProtocolError("too_many_pings", ENHANCE_YOUR_CALM)
        self._last_ping = now
        self._sent_something = False

    def _on_goaway(self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]) -> None:
        if stream_id:
            raise RemoteProtocolError("GOAWAY on a stream")
        if end - start < 8:
            raise RemoteProtocolError("GOAWAY of a wrong size", FRAME_SIZE_ERROR)
        last, code = TWO_WORDS.unpack_from(data, start)
        last &= MAX_STREAM_ID
        if self._goaway_received is not None and last > self._goaway_received:
            raise RemoteProtocolError("GOAWAY that takes more streams than the one before")  # section 6.8
        self._goaway_received = last
        events.append(GoAwayReceived(last, code, data[start + 8 : end]))
        for stream in [s for s in self._streams.values() if s.id > last and self.client]:
            self._drop(stream, RESET_BY_US)
            events.append(StreamReset(stream.id, REFUSED_STREAM, True, "the peer is going away"))

    def _on_window_update(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]
    ) -> None:
        if end - start != 4:
            raise RemoteProtocolError("WINDOW_UPDATE of a wrong size", FRAME_SIZE_ERROR)
        increment = WORD.unpack_from(data, start)[0] & MAX_WINDOW
        if not stream_id:
            if not increment:
                raise RemoteProtocolError("WINDOW_UPDATE by nothing")
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise RemoteProtocolError("the connection's window is too large", FLOW_CONTROL_ERROR)
            if self._waiting:
                events += map(StreamWritable, self._pump_all())
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id) and self._goaway_sent is None:
                raise RemoteProtocolError(f"WINDOW_UPDATE on idle stream {stream_id}")
            return
        if not increment:
            raise RemoteProtocolError("WINDOW_UPDATE by nothing", PROTOCOL_ERROR, stream_id)
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            raise RemoteProtocolError("the stream's window is too large", FLOW_CONTROL_ERROR, stream_id)
        if stream.queue and self._pump(stream):
            events.append(StreamWritable(stream_id))

    # SETTINGS (section 6.5)

    def _on_settings(self, data: bytes, start: int, end: int, flags: int, stream_id: int, events: list[Event]) -> None:
        if stream_id:
            raise RemoteProtocolError("SETTINGS on a stream")
        if flags & ACK:
            if start != end:
                raise RemoteProtocolError("an acknowledgement of SETTINGS with content", FRAME_SIZE_ERROR)
            self._on_settings_ack()
            return
        if (end - start) % 6:
            raise RemoteProtocolError("SETTINGS of a wrong size", FRAME_SIZE_ERROR)
        self._spend("settings")
        self._settled = True
        changes: dict[int, int] = {}
        for key, value in SETTING.iter_unpack(data[start:end]):
            self._apply(key, value)
            changes[key] = value
        self._out.append(_SETTINGS_ACK)
        events.append(SettingsReceived(changes))
        if self._waiting:
            events += map(StreamWritable, self._pump_all())

    def _on_settings_ack(self) -> None:
        """What we advertised holds from here on."""
        self._decoder.allow(self.limits.header_table_size)
        delta = self.limits.initial_window - self._stream_window
        if delta:
            self._stream_window += delta
            for stream in self._streams.values():
                stream.window += delta

    def _apply(self, key: int, value: int) -> None:
        peer = self.peer
        if key == SETTINGS_HEADER_TABLE_SIZE:
            peer.header_table_size = value  # our encoder keeps no table, so nothing follows
        elif key == SETTINGS_ENABLE_PUSH:
            if value > 1 or (value and self.client):
                raise RemoteProtocolError(f"SETTINGS_ENABLE_PUSH is {value}")
            peer.enable_push = value
        elif key == SETTINGS_MAX_CONCURRENT_STREAMS:
            peer.max_concurrent_streams = value
        elif key == SETTINGS_INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise RemoteProtocolError(f"SETTINGS_INITIAL_WINDOW_SIZE is {value}", FLOW_CONTROL_ERROR)
            delta = value - peer.initial_window
            peer.initial_window = value
            for stream in self._streams.values():  # section 6.9.2
                stream.send_window += delta
                if stream.send_window > MAX_WINDOW:
                    raise RemoteProtocolError("a stream's window is too large", FLOW_CONTROL_ERROR)
        elif key == SETTINGS_MAX_FRAME_SIZE:
            if not 16384 <= value <= 16777215:
                raise RemoteProtocolError(f"SETTINGS_MAX_FRAME_SIZE is {value}")
            peer.max_frame_size = value
        elif key == SETTINGS_MAX_HEADER_LIST_SIZE:
            peer.max_header_list_size = value
