"""What a client can make large on a gRPC server, with its limit."""

from __future__ import annotations

from portside.wire.grpc.protocol import MAX_MESSAGE_SIZE
from portside.wire.http2.limits import Limits

_HTTP2 = Limits()


class ServerLimits:
    """The limits of one server, those of HTTP/2 included. Sizes in bytes, times in seconds."""

    __slots__ = (
        "handshake_timeout",
        "http2",
        "linger",
        "max_assembling",
        "max_backlog",
        "max_connections",
        "max_message_size",
        "max_unsent",
        "write_high",
    )

    def __init__(
        self,
        *,
        http2: Limits = _HTTP2,
        max_message_size: int = MAX_MESSAGE_SIZE,
        max_assembling: int = 64 << 20,
        max_connections: int = 4096,
        max_backlog: int = 4 << 20,
        max_unsent: int = 32 << 20,
        write_high: int = 256 << 10,
        handshake_timeout: float = 20.0,
        linger: float = 1.0,
    ) -> None:
        self.http2 = http2
        """Of each connection."""
        self.max_message_size = max_message_size
        """Of one request message, before and after decompression; more is ResourceExhausted."""
        self.max_assembling = max_assembling
        """Of all incomplete messages of one connection; the call that exceeds it is ResourceExhausted."""
        self.max_connections = max_connections
        """At a time, and half as many over TCP; what comes more is closed at once."""
        self.max_backlog = max_backlog
        """Written for a connection and not taken by its socket; beyond it nothing more is read from the client."""
        self.max_unsent = max_unsent
        """Answers of one connection that wait for its windows; beyond it new calls are ResourceExhausted."""
        self.write_high = write_high
        """Written and not taken by the socket; beyond it a handler that streams is suspended."""
        self.handshake_timeout = handshake_timeout
        """Until a new connection has shown that it speaks HTTP/2."""
        self.linger = linger
        """For a client to read our last words and close, once a connection is over."""
