"""What ``H2Connection.receive_data`` tells: one small object for each thing that happened, in order."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.wire.http2.errors import RemoteProtocolError
    from portside.wire.http2.hpack import Headers


class Event:
    """Base of all events; ``stream_id`` is 0 where the whole connection is meant."""

    __slots__ = ("stream_id",)
    stream_id: int

    def __repr__(self) -> str:
        names = [name for kind in type(self).__mro__[-2::-1] for name in getattr(kind, "__slots__", ())]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class HeadersReceived(Event):
    """A header list, valid by the rules of RFC 9113, section 8, for its place.

    On a server the first of a stream is the request; on a client it is the response, after any number with an
    informational ``:status``. ``trailers`` marks the last one after the data, which always has ``end_stream``.
    """

    __slots__ = ("end_stream", "headers", "trailers")

    def __init__(self, stream_id: int, headers: Headers, end_stream: bool, trailers: bool) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self.end_stream = end_stream
        self.trailers = trailers


class DataReceived(Event):
    """Content of a stream. ``size`` counts for flow control (padding included): ``acknowledge`` it once it is used."""

    __slots__ = ("data", "end_stream", "size")

    def __init__(self, stream_id: int, data: bytes, size: int, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.data = data
        self.size = size
        self.end_stream = end_stream


class StreamReset(Event):
    """The stream is over before its time; nothing more can be sent or will come on it.

    ``by_peer`` tells a RST_STREAM (or a GOAWAY that excludes the stream: code REFUSED_STREAM) from one that we sent
    because the peer broke a rule on it; ``reason`` says which.
    """

    __slots__ = ("by_peer", "code", "reason")

    def __init__(self, stream_id: int, code: int, by_peer: bool, reason: str = "") -> None:
        self.stream_id = stream_id
        self.code = code
        self.by_peer = by_peer
        self.reason = reason


class StreamWritable(Event):
    """All that waited for flow control on this stream is on its way; the next ``send_data`` may come."""

    __slots__ = ()

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class SettingsReceived(Event):
    """The peer's SETTINGS are applied (and acknowledged): ``H2Connection.peer`` has them all; these came now."""

    __slots__ = ("changes",)

    def __init__(self, changes: dict[int, int]) -> None:
        self.stream_id = 0
        self.changes = changes


class PingAcknowledged(Event):
    """The answer to a PING of ours with these 8 bytes."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.stream_id = 0
        self.payload = payload


class GoAwayReceived(Event):
    """The peer takes no more streams of ours; those above ``last_stream_id`` are reset by events that follow."""

    __slots__ = ("code", "debug", "last_stream_id")

    def __init__(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self.stream_id = 0
        self.last_stream_id = last_stream_id
        self.code = code
        self.debug = debug


class ConnectionFailed(Event):
    """The peer broke a rule of the connection, always the last event: send what is queued (a GOAWAY), then close."""

    __slots__ = ("error",)

    def __init__(self, error: RemoteProtocolError) -> None:
        self.stream_id = 0
        self.error = error
