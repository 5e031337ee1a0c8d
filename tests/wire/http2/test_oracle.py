"""``h2`` and ``hyperframe`` as oracles: the same bytes must mean the same, however they are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import hyperframe.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.wire.http2 import frames as ours
from portside.wire.http2.connection import H2Connection
from portside.wire.http2.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    PingAcknowledged,
    StreamReset,
)
from portside.wire.http2.limits import Limits
from tests.wire.http2.scripts import REQUEST_FIELDS, RESPONSE, TRAILERS, Clock, frames


def their(client: bool) -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
    connection.initiate_connection()
    return connection


# Frames


@given(st.integers(0, 9), st.integers(0, 255), st.integers(0, 0x7FFFFFFF), st.binary(max_size=50))
def test_frame_headers(kind: int, flags: int, stream: int, payload: bytes) -> None:
    raw = ours.frame(kind, flags, stream, payload)
    word, seen_flags, seen_stream = ours.FRAME_HEADER.unpack_from(raw)
    assert (word >> 8, word & 0xFF, seen_flags, seen_stream) == (len(payload), kind, flags, stream)
    assert raw[9:] == payload


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (ours.settings({1: 4096, 4: 70000}), hyperframe.frame.SettingsFrame(settings={1: 4096, 4: 70000})),
        (ours.goaway(7, 11, b"why"), hyperframe.frame.GoAwayFrame(0, 7, 11, b"why")),
        (ours.rst_stream(5, 8), hyperframe.frame.RstStreamFrame(5, 8)),
        (ours.window_update(3, 1000), hyperframe.frame.WindowUpdateFrame(3, 1000)),
        (ours.frame(ours.PING, ours.ACK, 0, b"12345678"), hyperframe.frame.PingFrame(0, b"12345678", flags=["ACK"])),
    ],
    ids=["settings", "goaway", "rst_stream", "window_update", "ping"],
)
def test_frames(made: bytes, expected: hyperframe.frame.Frame) -> None:
    assert made == expected.serialize()


# What h2 sends as a client means to us what it means to h2 as a server

steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.booleans(), st.binary(max_size=30)),
        st.tuples(st.just("data"), st.integers(0, 5), st.binary(max_size=3000), st.booleans()),
        st.tuples(st.just("padded"), st.integers(0, 5), st.binary(max_size=300), st.integers(0, 255)),
        st.tuples(st.just("trailers"), st.integers(0, 5)),
        st.tuples(st.just("reset"), st.integers(0, 5), st.integers(0, 13)),
        st.tuples(st.just("ping"), st.binary(min_size=8, max_size=8)),
        st.tuples(st.just("window"), st.integers(0, 5), st.integers(1, 1000)),
        st.tuples(st.just("settings"), st.integers(0, 100000), st.integers(16384, 30000)),
        st.tuples(st.just("prioritize"), st.integers(0, 5)),
        st.tuples(st.just("goaway"), st.integers(0, 13)),
    ),
    max_size=12,
)


def script(connection: h2.connection.H2Connection, plan: list[tuple[Any, ...]]) -> bytes:
    """What a client sends who follows ``plan`` as far as h2 allows it."""
    streams: list[int] = []
    for step, *arguments in plan:
        try:
            match step, arguments:
                case "open", (end, value):
                    stream = connection.get_next_available_stream_id()
                    connection.send_headers(stream, [*REQUEST_FIELDS, (b"x-bin", value.hex().encode())], end)
                    streams.append(stream)
                case "data", (which, body, end):
                    connection.send_data(streams[which], body, end)
                case "padded", (which, body, padding):
                    connection.send_data(streams[which], body, pad_length=padding)
                case "trailers", (which,):
                    connection.send_headers(streams[which], [(b"x-trailer", b"1")], end_stream=True)
                case "reset", (which, code):
                    connection.reset_stream(streams[which], code)
                case "ping", (payload,):
                    connection.ping(payload)
                case "window", (which, increment):
                    connection.increment_flow_control_window(increment, streams[which] if which else None)
                case "settings", (window, size):
                    connection.update_settings({4: window, 5: size})
                case "prioritize", (which,):
                    connection.prioritize(streams[which])
                case "goaway", (code,):
                    connection.close_connection(code)
        except (h2.exceptions.ProtocolError, IndexError, KeyError):  # KeyError: a stream that h2 has forgotten
            continue
    return connection.data_to_send()


def meaning_of_theirs(events: list[h2.events.Event]) -> list[tuple[Any, ...]]:
    """h2's events in terms of ours; the end of a stream is an event of its own there."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived() | h2.events.TrailersReceived():
                fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
                trailers = isinstance(event, h2.events.TrailersReceived)
                told.append(("headers", event.stream_id, fields, event.stream_ended is not None, trailers))
            case h2.events.DataReceived():
                end = event.stream_ended is not None
                told.append(("data", event.stream_id, event.data, event.flow_controlled_length, end))
            case h2.events.StreamReset():
                told.append(("reset", event.stream_id, int(event.error_code)))
            case h2.events.ConnectionTerminated():
                told.append(("goaway", event.last_stream_id, int(event.error_code)))
            case h2.events.PingAckReceived():
                told.append(("pong", event.ping_data))
    return told


def meaning_of_ours(events: list[Event]) -> list[tuple[Any, ...]]:
    told: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case HeadersReceived():
                told.append(("headers", event.stream_id, event.headers.fields, event.end_stream, event.trailers))
            case DataReceived():
                told.append(("data", event.stream_id, event.data, event.size, event.end_stream))
            case StreamReset():
                told.append(("reset", event.stream_id, event.code))
            case GoAwayReceived():
                told.append(("goaway", event.last_stream_id, event.code))
            case PingAcknowledged():
                told.append(("pong", event.payload))
            case ConnectionFailed():
                told.append(("failed", event.error.code))
    return told


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in pairwise(edges)]


@given(steps, st.lists(st.integers(0, 1 << 16), max_size=20))
@settings(max_examples=150, deadline=None)
def test_a_script_means_the_same(plan: list[tuple[Any, ...]], places: list[int]) -> None:
    raw = script(their(client=True), [("open", False, b"x"), ("open", False, b"y"), *plan])
    oracle = their(client=False)
    expected = meaning_of_theirs(oracle.receive_data(raw))
    limits = Limits(ping_interval=0)
    connection = H2Connection(False, limits, Clock())
    events = [event for piece in cut(raw, places) for event in connection.receive_data(piece)]
    told = meaning_of_ours(events)
    if ("goaway",) in {each[:1] for each in expected}:
        # h2 hears nothing after a GOAWAY; streams of a client may go on after it.
        end = next(index for index, each in enumerate(expected) if each[0] == "goaway")
        expected, told = expected[: end + 1], told[: end + 1]
    assert told == expected


@given(st.lists(st.tuples(st.binary(max_size=40000), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_whole_conversation_with_h2_as_client(calls: list[tuple[bytes, bool]]) -> None:
    """h2 checks every frame that we send; windows, trailers and acknowledgements are to its liking."""
    client = their(client=True)
    server = H2Connection(False, Limits(initial_window=20000), Clock())
    answers: dict[int, bytes] = {}
    finished = set()

    def carry() -> None:
        while True:
            out, back = client.data_to_send(), server.data_to_send()
            if not out and not back:
                return
            for event in server.receive_data(out):
                assert not isinstance(event, ConnectionFailed)
                if isinstance(event, DataReceived):
                    server.acknowledge(event.stream_id, event.size)
            for theirs in client.receive_data(back):
                if isinstance(theirs, h2.events.DataReceived):
                    answers[theirs.stream_id] = answers.get(theirs.stream_id, b"") + theirs.data
                    client.acknowledge_received_data(theirs.flow_controlled_length, theirs.stream_id)
                elif isinstance(theirs, h2.events.StreamEnded):
                    finished.add(theirs.stream_id)

    carry()
    for number, (body, whole) in enumerate(calls):
        stream = 2 * number + 1
        client.send_headers(stream, REQUEST_FIELDS)
        client.send_data(stream, b"question", end_stream=True)
        carry()
        if whole:
            server.send_response(stream, RESPONSE, body, TRAILERS)
        else:
            server.send_headers(stream, RESPONSE)
            server.send_data(stream, body[: len(body) // 2])
            server.send_data(stream, body[len(body) // 2 :])
            server.send_headers(stream, TRAILERS, True)
        carry()
        assert answers.get(stream, b"") == body
        assert stream in finished


def test_a_conversation_with_h2_as_server() -> None:
    client = H2Connection(True, clock=Clock())
    server = their(client=False)
    received = b""
    events: list[Event] = []

    def carry() -> None:
        nonlocal received
        while True:
            out, back = client.data_to_send(), server.data_to_send()
            if not out and not back:
                return
            for theirs in server.receive_data(out):
                if isinstance(theirs, h2.events.DataReceived):
                    received += theirs.data
                    server.acknowledge_received_data(theirs.flow_controlled_length, theirs.stream_id)
            events.extend(client.receive_data(back))

    stream = client.open_stream(REQUEST_FIELDS)
    client.send_data(stream, bytes(200_000), end_stream=True)
    carry()
    assert received == bytes(200_000)
    server.send_headers(stream, [(b":status", b"200")])
    server.send_data(stream, b"answer")
    server.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
    server.close_connection()
    carry()
    assert [kind for kind, *_ in meaning_of_ours(events)] == ["headers", "data", "headers", "goaway"]


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=200)
def test_any_bytes_end_in_events(raw: bytes, client: bool) -> None:
    """Never an exception, never an output that is no frames, never anything after a failure."""
    connection = H2Connection(client, clock=Clock())
    start = b"" if client else ours.PREFACE
    events = connection.receive_data(start + ours.settings({}) + raw)
    assert [event for event in events if isinstance(event, ConnectionFailed)] in ([], events[-1:])
    frames(connection.data_to_send())


frame_soup = st.lists(
    st.builds(
        ours.frame,
        st.integers(0, 10),
        st.sampled_from([0, 1, 4, 5, 8, 12, 13, 0x24, 0x2D, 255]),
        st.sampled_from([0, 1, 1, 3, 5, 2]),
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from([RESPONSE, TRAILERS, b"\x82\x86\x84", b"\0\0\0\0", b"\0\0\0\1", bytes(8), bytes(5)]),
        ),
    ),
    max_size=10,
)


@given(frame_soup, st.booleans(), st.lists(st.integers(0, 1 << 10), max_size=10))
@settings(max_examples=300)
def test_cutting_changes_nothing(soup: list[bytes], client: bool, places: list[int]) -> None:
    """Any frames, whole or in pieces: the same events, the same output, and no exception."""
    results = []
    for how in ([], places):
        connection = H2Connection(client, clock=Clock())
        raw = (b"" if client else ours.PREFACE) + ours.settings({}) + b"".join(soup)
        events = [event for piece in cut(raw, how) for event in connection.receive_data(piece)]
        results.append((meaning_of_ours(events), connection.data_to_send(), connection.open_streams))
    assert results[0] == results[1]
