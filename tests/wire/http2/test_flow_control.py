"""Flow control, both levels and both ways, and SETTINGS that change it in flight (RFC 9113, sections 5.2, 6.5, 6.9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.wire.http2.connection import H2Connection
from portside.wire.http2.errors import LocalProtocolError
from portside.wire.http2.events import ConnectionFailed, DataReceived, StreamReset, StreamWritable
from portside.wire.http2.limits import Limits
from tests.wire.http2.scripts import (
    ACK,
    CONTINUATION,
    DATA,
    END_STREAM,
    HEADERS,
    REQUEST,
    RESPONSE,
    RST_STREAM,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    Clock,
    client,
    data,
    exchange,
    frame,
    frames,
    headers,
    rst,
    server,
    settings,
    window,
)


def contents(raw: bytes, stream: int = 1) -> bytes:
    return b"".join(each.payload for each in frames(raw) if each.kind == DATA and each.stream == stream)


def serving(*streams: int, limits: Limits | None = None) -> H2Connection:
    connection = server(limits)
    for stream in streams:
        connection.receive_data(headers(stream, end=True))
        connection.send_headers(stream, RESPONSE)
    connection.data_to_send()
    return connection


# Towards the peer


def test_data_is_cut_to_frames_and_stops_at_the_window() -> None:
    connection = serving(1)
    body = bytes(range(256)) * 400  # 102,400
    assert not connection.send_data(1, body)
    sent = frames(connection.data_to_send())
    assert [len(each.payload) for each in sent] == [16384, 16384, 16384, 16383]
    assert connection.waiting(1) == connection.unsent == len(body) - 65535
    assert connection.receive_data(window(1, 100000)) == []  # the connection's window is used up too
    assert connection.data_to_send() == b""
    (event,) = connection.receive_data(window(0, 100000))
    assert isinstance(event, StreamWritable)
    assert event.stream_id == 1
    assert b"".join(each.payload for each in sent) + contents(connection.data_to_send()) == body
    assert connection.waiting(1) == connection.unsent == 0


def test_many_buffers_are_one_run_of_bytes() -> None:
    connection = serving(1)
    buffers = [b"a" * 10000, bytearray(b"b" * 10000), memoryview(b"c" * 10000), b""]
    assert connection.send_data(1, *buffers, end_stream=True)
    sent = frames(connection.data_to_send())
    assert [(len(each.payload), each.flags) for each in sent] == [(16384, 0), (13616, END_STREAM)]
    assert b"".join(each.payload for each in sent) == b"".join(bytes(buffer) for buffer in buffers)


def test_buffers_are_not_copied() -> None:
    connection = serving(1)
    body = bytearray(40000)
    connection.send_data(1, body)
    body[:] = b"x" * len(body)  # which a user must not do
    views = [buffer for buffer in connection.buffers_to_send() if isinstance(buffer, memoryview)]
    assert b"".join(views) == b"x" * 40000


def test_the_end_waits_behind_the_data() -> None:
    connection = serving(1)
    assert not connection.send_data(1, bytes(70000))
    connection.send_headers(1, TRAILERS, True)
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"more")
    assert {each.kind for each in frames(connection.data_to_send())} == {DATA}
    assert connection.open_streams == 1
    connection.receive_data(window(0, 70000) + window(1, 70000))
    sent = frames(connection.data_to_send())
    assert [(each.kind, each.flags & END_STREAM) for each in sent] == [(DATA, 0), (HEADERS, END_STREAM)]
    assert connection.open_streams == 0


def test_end_stream_with_the_last_data_and_without_any() -> None:
    connection = serving(1, 3)
    connection.send_data(1, bytes(70000), end_stream=True)
    connection.send_data(3, end_stream=True)
    connection.receive_data(window(0, 70000) + window(1, 70000))
    sent = frames(connection.data_to_send())
    assert [each.stream for each in sent if each.flags & END_STREAM] == [3, 1]
    assert connection.open_streams == 0


def test_a_response_in_one_piece_equals_that_in_three() -> None:
    one, three = serving(), serving()
    for connection in one, three:
        connection.receive_data(headers(1, end=True) + headers(3, end=True))
        connection.send_headers(1, TRAILERS, True)  # the announcement of the encoder is out
    one.send_response(3, RESPONSE, b"message", TRAILERS)
    three.send_headers(3, RESPONSE)
    three.send_data(3, b"message")
    three.send_headers(3, TRAILERS, True)
    assert one.data_to_send() == three.data_to_send()
    assert one.open_streams == three.open_streams == 0
    assert one._send_window == three._send_window


def test_a_response_larger_than_the_window_waits() -> None:
    connection = serving()
    connection.receive_data(settings((4, 10)) + headers(1, end=True))
    connection.data_to_send()
    assert not connection.send_response(1, RESPONSE, b"0123456789abc", TRAILERS)
    assert [each.kind for each in frames(connection.data_to_send())] == [HEADERS, DATA]
    connection.receive_data(window(1, 3))
    assert [each.kind for each in frames(connection.data_to_send())] == [DATA, HEADERS]


def test_initial_window_changes_in_flight() -> None:
    """Section 6.9.2: a smaller window can make the room negative; a larger one lets the rest go."""
    connection = serving(1)
    connection.send_data(1, bytes(1000))
    connection.receive_data(settings((4, 500)))
    connection.data_to_send()
    assert not connection.send_data(1, bytes(100))
    assert connection._streams[1].send_window == -500
    connection.receive_data(window(1, 500))
    assert contents(connection.data_to_send()) == b""
    connection.receive_data(settings((4, 560)))
    assert contents(connection.data_to_send()) == bytes(60)
    events = connection.receive_data(settings((4, 600)))
    assert [type(event) for event in events][-1] is StreamWritable
    assert contents(connection.data_to_send()) == bytes(40)


def test_settings_are_applied_in_order() -> None:
    connection = serving(1)
    connection.receive_data(settings((4, 10), (4, 20), (5, 20000)))
    assert connection.peer.initial_window == 20
    assert connection.peer.max_frame_size == 20000


def test_max_frame_size_changes_in_flight() -> None:
    connection = serving(1)
    connection.receive_data(settings((5, 40000)))
    connection.data_to_send()
    connection.send_data(1, bytes(50000))
    assert [len(each.payload) for each in frames(connection.data_to_send())] == [40000, 10000]


def test_a_large_header_list_is_continued() -> None:
    connection = serving(1)
    fields = [(b"grpc-status", b"0"), (b"x", b"y" * 40000)]
    connection.send_headers(1, fields, True)
    sent = frames(connection.data_to_send())
    assert [each.kind for each in sent] == [HEADERS, CONTINUATION, CONTINUATION]
    assert [each.flags for each in sent] == [END_STREAM, 0, 4]


def test_streams_share_the_connection_fairly() -> None:
    connection = serving(1, 3, 5)
    connection.receive_data(window(1, 1 << 20) + window(3, 1 << 20) + window(5, 1 << 20))
    connection.send_data(1, bytes(65535))  # the connection's window is gone
    for stream in (1, 3, 5):
        assert not connection.send_data(stream, bytes(1 << 20))
    connection.data_to_send()
    connection.receive_data(window(0, 600_000))
    raw = connection.data_to_send()
    shares = [len(contents(raw, stream)) for stream in (1, 3, 5)]
    assert sum(shares) == 600_000
    assert max(shares) - min(shares) <= 2 * 65536


def test_a_stream_without_window_does_not_hold_up_others() -> None:
    connection = serving(1, 3)
    connection.receive_data(window(0, 1 << 20))
    connection.send_data(1, bytes(70000))
    connection.data_to_send()
    assert connection.send_data(3, bytes(1000))
    assert len(contents(connection.data_to_send(), 3)) == 1000


def test_reset_drops_what_waits() -> None:
    connection = serving(1, 3)
    connection.send_data(1, bytes(100000))
    connection.send_data(3, bytes(100000))
    connection.receive_data(rst(1))
    connection.reset_stream(3, 8)
    assert connection.unsent == connection.open_streams == 0
    connection.data_to_send()
    connection.receive_data(window(0, 1 << 20))
    assert connection.data_to_send() == b""
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"x")


# From the peer


def test_what_is_advertised() -> None:
    connection = H2Connection(False, Limits(initial_window=1 << 20, connection_window=2 << 20, max_frame_size=20000))
    first, second = frames(connection.data_to_send())
    assert first.kind == SETTINGS
    values = {int.from_bytes(first.payload[i : i + 2], "big"): int.from_bytes(first.payload[i + 2 : i + 6], "big")
              for i in range(0, len(first.payload), 6)}  # fmt: skip
    assert values == {1: 4096, 3: 1000, 4: 1 << 20, 5: 20000, 6: 65536}
    assert (second.kind, second.stream, second.word) == (WINDOW_UPDATE, 0, (2 << 20) - 65535)


def test_more_than_the_streams_window() -> None:
    connection = server(Limits(initial_window=100_000))
    connection.receive_data(headers(1))
    for _ in range(6):
        assert [type(event) for event in connection.receive_data(data(1, bytes(16384)))] == [DataReceived]
    (event,) = connection.receive_data(data(1, bytes(1697)))
    assert isinstance(event, StreamReset)
    assert (event.code, event.by_peer) == (3, False)


def test_more_than_the_connections_window() -> None:
    connection = server(Limits(initial_window=1 << 20, connection_window=65535, max_unread=65535))
    connection.receive_data(headers(1) + headers(3))
    connection.receive_data(b"".join(data(1, bytes(16384)) for _ in range(3)))
    (event,) = connection.receive_data(data(3, bytes(16384)))
    assert isinstance(event, ConnectionFailed)
    assert event.error.code == 3


def test_padding_counts() -> None:
    connection = server()
    connection.receive_data(headers(1))
    (event,) = connection.receive_data(frame(DATA, 8, 1, b"\x05ab\0\0\0\0\0"))
    assert isinstance(event, DataReceived)
    assert (event.data, event.size) == (b"ab", 8)


def test_a_window_below_the_default_holds_from_the_acknowledgement_on() -> None:
    """Until the peer has seen our SETTINGS it may use 65,535 (section 6.9.2)."""
    connection = server(Limits(initial_window=1000), acknowledge=False)
    connection.receive_data(headers(1))
    assert [type(event) for event in connection.receive_data(data(1, bytes(1200)))] == [DataReceived]
    connection.receive_data(frame(SETTINGS, ACK))
    assert connection._streams[1].window == -200
    connection.receive_data(headers(3))
    assert [type(event) for event in connection.receive_data(data(3, bytes(1001)))] == [StreamReset]


def test_credit_comes_in_large_steps_and_only_for_what_is_acknowledged() -> None:
    connection = server(Limits(initial_window=100_000, connection_window=200_000))
    connection.receive_data(headers(1))
    for _ in range(6):
        connection.receive_data(data(1, bytes(16384)))
    assert connection.data_to_send() == b""
    connection.acknowledge(1, 16384)
    connection.acknowledge(1, 16384)
    assert connection.data_to_send() == b""
    connection.acknowledge(1, 32768)
    (update,) = frames(connection.data_to_send())
    assert (update.kind, update.stream, update.word) == (WINDOW_UPDATE, 1, 65536)


def test_the_connections_credit_is_held_back_from_one_who_reads_nothing() -> None:
    limits = Limits(initial_window=1 << 20, connection_window=1 << 20, max_unread=1 << 20)
    connection = server(limits)
    connection.receive_data(headers(1) + headers(3))
    for stream in (1, 3):
        connection.receive_data(b"".join(data(stream, bytes(16384)) for _ in range(30)))
    assert connection.data_to_send() == b""
    connection.acknowledge(1, 30 * 16384)
    assert [each.stream for each in frames(connection.data_to_send()) if each.kind == WINDOW_UPDATE] == [0]


def test_a_stream_that_is_over_is_acknowledged_as_a_whole() -> None:
    connection = server(Limits(initial_window=1 << 20, connection_window=1 << 20, max_unread=1 << 20))
    for stream in range(1, 41, 2):
        connection.receive_data(headers(stream) + b"".join(data(stream, bytes(16384)) for _ in range(10)) + rst(stream))
    assert connection._unread == 0
    assert connection._window > (1 << 20) // 2


def test_data_for_a_stream_that_we_reset_still_counts_for_the_connection() -> None:
    connection = server()
    connection.receive_data(headers(1))
    connection.reset_stream(1, 8)
    before = connection._window
    connection.receive_data(data(1, bytes(1000)))
    assert connection._window == before - 1000
    for _ in range(1000):
        connection.receive_data(data(1, bytes(16384)))
    assert connection._window > 0
    assert [each.kind for each in frames(connection.data_to_send()) if each.kind != WINDOW_UPDATE] == [RST_STREAM]


def test_acknowledging_too_much_or_too_late_does_nothing() -> None:
    connection = server()
    connection.receive_data(headers(1) + data(1, b"abc", True))
    connection.acknowledge(1, 1 << 30)
    connection.send_response(1, RESPONSE, b"", TRAILERS)
    connection.acknowledge(1, 3)
    connection.acknowledge(99, 3)
    assert connection._unread == 0
    assert WINDOW_UPDATE not in {each.kind for each in frames(connection.data_to_send())}


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 60000)), max_size=20),
    st.integers(65535, 100000),
    st.integers(1000, 100000),
)
def test_all_data_arrives_whatever_the_windows(
    writes: list[tuple[int, int]], connection_window: int, initial_window: int
) -> None:
    """Several streams, a reader that acknowledges what it gets: nothing is lost, reordered or stuck."""
    ours = client()
    theirs = H2Connection(False, Limits(initial_window=initial_window, connection_window=connection_window), Clock())
    exchange(ours, theirs)
    ours = H2Connection(True, clock=Clock())
    theirs = H2Connection(False, Limits(initial_window=initial_window, connection_window=connection_window), Clock())
    exchange(ours, theirs)
    streams = [ours.open_stream(REQUEST) for _ in range(3)]
    expected = dict.fromkeys(streams, b"")
    got = dict.fromkeys(streams, b"")
    for which, size in writes:
        body = bytes((len(expected[streams[which]]) + i) & 0xFF for i in range(size))
        expected[streams[which]] += body
        ours.send_data(streams[which], body)
    for _ in range(1000):
        raw = ours.data_to_send()
        if not raw:
            break
        for event in theirs.receive_data(raw):
            assert isinstance(event, DataReceived) or event.stream_id in streams
            if isinstance(event, DataReceived):
                got[event.stream_id] += event.data
                theirs.acknowledge(event.stream_id, event.size)
        ours.receive_data(theirs.data_to_send())
    assert got == expected
    assert ours.unsent == 0
