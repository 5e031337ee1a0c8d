"""The life of a stream as a table (RFC 9113, section 5.1, figure 2). A missing entry is the protocol error.

Server push is never enabled (section 8.4 lets a receiver refuse it), so the two reserved states do not exist here.

::

                     HEADERS
            IDLE ───────────────▶ OPEN
                                 /    \\
              END_STREAM sent   /      \\  END_STREAM received
                               ▼        ▼
                HALF_CLOSED_LOCAL      HALF_CLOSED_REMOTE
                               \\        /
           END_STREAM received  \\      /  END_STREAM sent        RST_STREAM either way: CLOSED from anywhere
                                 ▼    ▼
                                 CLOSED
"""

from __future__ import annotations

IDLE = 0
OPEN = 1
HALF_CLOSED_LOCAL = 2
HALF_CLOSED_REMOTE = 3
CLOSED = 4

NAMES = ("idle", "open", "half-closed (local)", "half-closed (remote)", "closed")

# What can happen to a stream; the values index TABLE's columns.
SEND_HEADERS = 0
SEND_DATA = 1
SEND_END = 2
RECEIVE_HEADERS = 3
RECEIVE_DATA = 4
RECEIVE_END = 5
RESET = 6

EVENTS = (
    "send HEADERS",
    "send DATA",
    "send END_STREAM",
    "receive HEADERS",
    "receive DATA",
    "receive END_STREAM",
    "reset",
)

_ROWS: dict[int, dict[int, int]] = {
    # "idle: sending or receiving a HEADERS frame causes the stream to become open"
    IDLE: {SEND_HEADERS: OPEN, RECEIVE_HEADERS: OPEN},
    # "open: either endpoint can send a frame with an END_STREAM flag set"
    OPEN: {
        SEND_HEADERS: OPEN,
        SEND_DATA: OPEN,
        SEND_END: HALF_CLOSED_LOCAL,
        RECEIVE_HEADERS: OPEN,
        RECEIVE_DATA: OPEN,
        RECEIVE_END: HALF_CLOSED_REMOTE,
        RESET: CLOSED,
    },
    # "half-closed (local): cannot be used for sending frames other than WINDOW_UPDATE, PRIORITY and RST_STREAM"
    HALF_CLOSED_LOCAL: {
        RECEIVE_HEADERS: HALF_CLOSED_LOCAL,
        RECEIVE_DATA: HALF_CLOSED_LOCAL,
        RECEIVE_END: CLOSED,
        RESET: CLOSED,
    },
    # "half-closed (remote): no longer being used by the peer to send frames"
    HALF_CLOSED_REMOTE: {
        SEND_HEADERS: HALF_CLOSED_REMOTE,
        SEND_DATA: HALF_CLOSED_REMOTE,
        SEND_END: CLOSED,
        RESET: CLOSED,
    },
    # "closed: an endpoint MUST NOT send frames other than PRIORITY on a closed stream"
    CLOSED: {},
}

TABLE: tuple[tuple[int | None, ...], ...] = tuple(
    tuple(_ROWS[state].get(event) for event in range(len(EVENTS))) for state in range(len(NAMES))
)
"""``TABLE[state][event]`` is the next state, ``None`` where the event is not allowed."""
