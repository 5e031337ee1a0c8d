"""Whatever a peer can make large or frequent, with its limit. Sizes in bytes, rates per second."""

from __future__ import annotations


class Limits:
    """The limits of one connection; the defaults suit a daemon on a unix socket.

    What is advertised in SETTINGS: ``header_table_size``, ``max_concurrent_streams`` (as a server),
    ``initial_window``, ``max_frame_size``, ``max_header_list_size``. The others are enforced silently. Frames that
    cost the peer little and us something are counted in ``bursts``: each kind may come ``burst`` times at once and
    ``rate`` times per second in the long run; more is answered by ENHANCE_YOUR_CALM for the whole connection.
    """

    __slots__ = (
        "bursts",
        "connection_window",
        "header_table_size",
        "initial_window",
        "max_concurrent_streams",
        "max_continuations",
        "max_frame_size",
        "max_header_block",
        "max_header_list_size",
        "max_ping_strikes",
        "max_unread",
        "ping_interval",
    )

    def __init__(
        self,
        *,
        header_table_size: int = 4096,
        max_concurrent_streams: int = 1000,
        initial_window: int = 8 << 20,
        connection_window: int = 16 << 20,
        max_unread: int = 64 << 20,
        max_frame_size: int = 64 << 10,
        max_header_list_size: int = 64 << 10,
        max_header_block: int = 64 << 10,
        max_continuations: int = 16,
        ping_interval: float = 10.0,
        max_ping_strikes: int = 2,
        bursts: dict[str, tuple[int, float]] | None = None,
    ) -> None:
        self.header_table_size = header_table_size
        """Dynamic table that the peer's encoder may use (RFC 7541, section 4.2)."""
        self.max_concurrent_streams = max_concurrent_streams
        """Streams that a client may have open; more are refused (REFUSED_STREAM)."""
        self.initial_window = initial_window
        """What a peer may send on one stream before we acknowledge."""
        self.connection_window = connection_window
        """What a peer may send on all streams before we give credit again; at least 65,535."""
        self.max_unread = max_unread
        """Bytes received and not yet acknowledged by the reader, over all streams; beyond it no credit is given."""
        self.max_frame_size = max_frame_size
        """Largest payload of a frame that we take; 16,384 to 16,777,215."""
        self.max_header_list_size = max_header_list_size
        """Decoded size of a header list, by the count of RFC 9113, section 6.5.2; a larger one ends its stream."""
        self.max_header_block = max_header_block
        """Encoded size of a header block with all its CONTINUATIONs; a larger one ends the connection."""
        self.max_continuations = max_continuations
        """CONTINUATION frames of one header block."""
        self.ping_interval = ping_interval
        """Seconds that a client leaves between PINGs while it gets neither headers nor data from us."""
        self.max_ping_strikes = max_ping_strikes
        """PINGs sooner than that which are forgiven; then GOAWAY with ``too_many_pings`` (gRPC: keepalive)."""
        self.bursts = BURSTS if bursts is None else bursts
        """Kind of frame → (burst, rate)."""


BURSTS: dict[str, tuple[int, float]] = {
    "reset": (1000, 50.0),  # a stream opened and reset, or refused by us (rapid reset, CVE-2023-44487)
    "settings": (100, 10.0),  # each costs an acknowledgement (CVE-2019-9515)
    "ping": (1000, 100.0),  # each costs an answer (CVE-2019-9512)
    "empty": (1000, 100.0),  # DATA and CONTINUATION without content (CVE-2019-9518)
    "ignored": (1000, 100.0),  # PRIORITY, unknown frames, frames on streams that are over
}

FORGIVEN_TO_SERVERS = frozenset(("reset", "empty", "ignored"))
"""What a client does not count: answers to calls that it has cancelled itself come as such."""
