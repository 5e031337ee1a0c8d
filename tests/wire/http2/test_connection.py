"""Two connections back to back, the end of a connection, and what we may not do ourselves."""

from __future__ import annotations

import pytest

from portside.wire.http2.connection import H2Connection
from portside.wire.http2.errors import LocalProtocolError
from portside.wire.http2.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    PingAcknowledged,
    SettingsReceived,
    StreamReset,
)
from portside.wire.http2.hpack import NO_TABLE
from portside.wire.http2.limits import Limits
from portside.wire.http2.states import CLOSED, EVENTS, IDLE, NAMES, RESET, TABLE
from tests.wire.http2.scripts import (
    ACK,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    REQUEST,
    REQUEST_FIELDS,
    RESPONSE,
    RST_STREAM,
    SETTINGS,
    TRAILERS,
    Clock,
    client,
    data,
    exchange,
    frame,
    frames,
    goaway,
    headers,
    server,
    settings,
)


def pair() -> tuple[H2Connection, H2Connection]:
    ours, theirs = H2Connection(True, clock=Clock()), H2Connection(False, clock=Clock())
    exchange(ours, theirs)
    return ours, theirs


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def test_a_unary_call() -> None:
    ours, theirs = pair()
    stream = ours.open_stream(REQUEST_FIELDS)
    assert ours.send_data(stream, b"question", end_stream=True)
    _, events = exchange(ours, theirs)
    assert kinds(events) == [HeadersReceived, DataReceived]
    head, content = events
    assert head.headers.fields == tuple(REQUEST_FIELDS)
    assert (head.end_stream, head.trailers) == (False, False)
    assert (content.data, content.end_stream) == (b"question", True)
    theirs.send_response(stream, RESPONSE, b"answer", TRAILERS)
    events, _ = exchange(ours, theirs)
    assert kinds(events) == [HeadersReceived, DataReceived, HeadersReceived]
    assert events[0].headers.get(b":status") == b"200"
    assert (events[2].trailers, events[2].end_stream) == (True, True)
    assert ours.open_streams == theirs.open_streams == 0


def test_both_ways_at_once() -> None:
    ours, theirs = pair()
    stream = ours.open_stream(REQUEST)
    exchange(ours, theirs)
    theirs.send_headers(stream, RESPONSE)
    for number in range(10):
        ours.send_data(stream, b"to %d" % number)
        theirs.send_data(stream, b"fro %d" % number)
        back, there = exchange(ours, theirs)
        assert [event.data for event in there if isinstance(event, DataReceived)] == [b"to %d" % number]
        assert [event.data for event in back if isinstance(event, DataReceived)] == [b"fro %d" % number]
    ours.send_data(stream, end_stream=True)
    theirs.send_headers(stream, TRAILERS, True)
    exchange(ours, theirs)
    assert ours.open_streams == theirs.open_streams == 0


def test_the_first_block_announces_an_encoder_without_table() -> None:
    ours, theirs = pair()
    ours.open_stream(REQUEST)
    ours.open_stream(REQUEST)
    first, second = frames(ours.data_to_send())
    assert first.payload == NO_TABLE + REQUEST
    assert second.payload == REQUEST
    del theirs


def test_reset_from_both_sides() -> None:
    ours, theirs = pair()
    one, two = ours.open_stream(REQUEST), ours.open_stream(REQUEST)
    exchange(ours, theirs)
    ours.reset_stream(one, 8)
    theirs.reset_stream(two, 2)
    back, there = exchange(ours, theirs)
    assert [(event.stream_id, event.code, event.by_peer) for event in there] == [(one, 8, True)]
    assert [(event.stream_id, event.code, event.by_peer) for event in back] == [(two, 2, True)]
    ours.reset_stream(one, 8)
    assert ours.data_to_send() == b""


def test_ping() -> None:
    ours, theirs = pair()
    ours.ping(b"01234567")
    (event,), _ = exchange(ours, theirs)
    assert isinstance(event, PingAcknowledged)
    assert event.payload == b"01234567"
    with pytest.raises(LocalProtocolError):
        ours.ping(b"short")


def test_settings_are_seen_by_the_other_side() -> None:
    ours = H2Connection(True, Limits(initial_window=70000, max_frame_size=30000), Clock())
    theirs = H2Connection(False, Limits(max_concurrent_streams=7), Clock())
    back, there = exchange(ours, theirs)
    assert kinds(back) == kinds(there) == [SettingsReceived]
    assert theirs.peer.initial_window == 70000
    assert theirs.peer.max_frame_size == 30000
    assert theirs.peer.enable_push == 0
    assert ours.peer.max_concurrent_streams == 7
    assert back[0].changes[3] == 7


def test_a_client_may_send_before_the_servers_settings() -> None:
    ours, theirs = H2Connection(True, clock=Clock()), H2Connection(False, clock=Clock())
    stream = ours.open_stream(REQUEST, True)
    _, events = exchange(ours, theirs)
    assert [event.stream_id for event in events if isinstance(event, HeadersReceived)] == [stream]


# Limits of what may be open


def test_a_client_keeps_to_the_servers_limit() -> None:
    ours = client()
    ours.receive_data(settings((3, 1)))
    one = ours.open_stream(REQUEST)
    assert not ours.can_open_stream
    with pytest.raises(LocalProtocolError, match="too many"):
        ours.open_stream(REQUEST)
    ours.reset_stream(one, 8)
    assert ours.can_open_stream
    ours.receive_data(settings((3, 0)))
    assert not ours.can_open_stream


def test_stream_numbers_end() -> None:
    ours = client()
    ours._next_stream_id = 0x7FFFFFFF
    assert ours.open_stream(REQUEST) == 0x7FFFFFFF
    assert not ours.can_open_stream


def test_what_we_may_not_do() -> None:
    ours, theirs = pair()
    stream = ours.open_stream(REQUEST, True)
    exchange(ours, theirs)
    for wrong in (
        lambda: ours.send_data(stream, b"after the end"),
        lambda: ours.send_headers(stream, TRAILERS, True),
        lambda: ours.send_data(99, b"no such stream"),
        lambda: theirs.send_headers(99, RESPONSE),
        lambda: theirs.open_stream(REQUEST),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()
    assert ours.data_to_send() == theirs.data_to_send() == b""


# The end of a connection


def test_goaway_tells_a_client_which_calls_were_not_taken() -> None:
    ours = client()
    one, two = ours.open_stream(REQUEST, True), ours.open_stream(REQUEST, True)
    events = ours.receive_data(goaway(one, 0, b"restart"))
    assert kinds(events) == [GoAwayReceived, StreamReset]
    assert (events[0].last_stream_id, events[0].debug) == (one, b"restart")
    assert (events[1].stream_id, events[1].code) == (two, 7)
    assert ours.going_away
    with pytest.raises(LocalProtocolError, match="going away"):
        ours.open_stream(REQUEST)
    assert kinds(ours.receive_data(headers(one, RESPONSE) + headers(one, TRAILERS, True))) == [HeadersReceived] * 2
    assert ours.open_streams == 0


def test_graceful_drain() -> None:
    """Section 6.8: a warning first, so that calls on their way are not lost."""
    theirs = server()
    theirs.receive_data(headers(1, end=True))
    theirs.drain()
    warning, ping = frames(theirs.data_to_send())
    assert (warning.kind, warning.word) == (GOAWAY, 0x7FFFFFFF)
    assert ping.kind == PING
    assert kinds(theirs.receive_data(headers(3, end=True))) == [HeadersReceived]  # was on its way
    theirs.receive_data(frame(PING, ACK, 0, ping.payload))
    (final,) = frames(theirs.data_to_send())
    assert (final.kind, final.word) == (GOAWAY, 3)
    assert theirs.receive_data(headers(5) + data(5, b"x")) == []  # the client knows
    assert theirs.data_to_send() == b""
    for stream in (1, 3):
        assert not theirs.drained
        theirs.send_response(stream, RESPONSE, b"", TRAILERS)
    assert theirs.drained


def test_a_late_request_keeps_the_header_table_in_step() -> None:
    """Blocks of ignored streams are decoded all the same."""
    import hpack

    encoder = hpack.Encoder()
    theirs = server()
    theirs.receive_data(headers(1, encoder.encode(REQUEST_FIELDS)))
    theirs.close()
    assert theirs.receive_data(headers(3, encoder.encode([*REQUEST_FIELDS, (b"x", b"y")]))) == []
    (event,) = theirs.receive_data(headers(1, encoder.encode([(b"x", b"y")]), True))
    assert event.headers.fields == ((b"x", b"y"),)


def test_drain_between_two_of_ours() -> None:
    ours, theirs = pair()
    stream = ours.open_stream(REQUEST, True)
    exchange(ours, theirs)
    theirs.drain()
    events, _ = exchange(ours, theirs)
    assert [event.last_stream_id for event in events if isinstance(event, GoAwayReceived)] == [0x7FFFFFFF, stream]
    assert not theirs.drained
    theirs.send_response(stream, RESPONSE, b"", TRAILERS)
    assert theirs.drained


def test_close_sends_one_goaway() -> None:
    theirs = server()
    theirs.receive_data(headers(1))
    theirs.close(2, b"why")
    theirs.close(2, b"why")
    (last,) = frames(theirs.data_to_send())
    assert last.payload == b"\0\0\0\1\0\0\0\2why"


def test_nothing_follows_a_failure() -> None:
    theirs = server()
    events = theirs.receive_data(headers(1, end=True) + frame(SETTINGS, 0, 1) + headers(3, end=True))
    assert kinds(events) == [HeadersReceived, ConnectionFailed]
    with pytest.raises(LocalProtocolError):
        theirs.send_headers(1, RESPONSE)
    assert theirs.open_streams == theirs.unsent == 0
    theirs.close()
    assert [each.kind for each in frames(theirs.data_to_send())] == [GOAWAY]
    assert theirs.going_away


def test_a_stream_error_does_not_lose_what_came_with_it() -> None:
    theirs = server()
    events = theirs.receive_data(headers(1, end=True) + headers(3, TRAILERS) + headers(5, end=True))
    assert [event.stream_id for event in events] == [1, 5]
    assert [(each.kind, each.stream) for each in frames(theirs.data_to_send())] == [(RST_STREAM, 3)]


def test_preface_of_a_client() -> None:
    raw = H2Connection(True).data_to_send()
    assert raw.startswith(PREFACE)
    assert frames(raw)[0].kind == SETTINGS


def test_events_show_themselves() -> None:
    (event,) = server().receive_data(headers(1))
    assert repr(event).startswith(
        "HeadersReceived(stream_id=1, end_stream=False, headers=Headers(((b':method', b'POST')"
    )


# What importing it costs


def test_imports_are_cheap() -> None:
    """The command line makes one call and ends: nothing that is slow to import may come in here."""
    import subprocess
    import sys
    from pathlib import Path

    import portside

    source = Path(portside.__file__).parent.parent
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r}); before = set(sys.modules)\n"
        "import portside.wire.http2.connection, portside.wire.grpc.protocol\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    slow = {"asyncio", "dataclasses", "enum", "google", "inspect", "logging", "pathlib", "re", "selectors", "socket"}
    assert not set(result.stdout.split()) & (slow | {"subprocess", "typing", "zlib"})


# The table of states


def test_the_table_is_whole() -> None:
    assert len(TABLE) == len(NAMES)
    assert all(len(row) == len(EVENTS) for row in TABLE)
    assert set(TABLE[CLOSED]) == {None}, "nothing happens to a closed stream"
    assert TABLE[IDLE][RESET] is None, "section 5.1: RST_STREAM on an idle stream is an error"
    reached = {IDLE}
    while True:
        more = reached | {state for row in reached for state in TABLE[row] if state is not None}
        if more == reached:
            break
        reached = more
    assert reached == set(range(len(NAMES)))
    assert HEADERS == 1
