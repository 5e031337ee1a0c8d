"""What a peer can do too often or too large (``limits.py``): the reaction, and that memory does not grow until then.

Frames are made one at a time and output is taken as a shell would, so the memory measured is the connection's own.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import hpack
import pytest

from portside.wire.http2.connection import H2Connection
from portside.wire.http2.events import ConnectionFailed, HeadersReceived, StreamReset
from portside.wire.http2.limits import Limits
from tests.wire.http2.scripts import (
    ACK,
    CONTINUATION,
    DATA,
    GOAWAY,
    PING,
    PRIORITY,
    REQUEST,
    REQUEST_FIELDS,
    RESPONSE,
    RST_STREAM,
    TRAILERS,
    Clock,
    client,
    data,
    frame,
    frames,
    headers,
    rst,
    server,
    settings,
    window,
)

CALM = 11
PINGED = frame(PING, 0, 0, bytes(8))


def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487."""
    for stream in range(1, 1 << 20, 2):
        yield headers(stream) + rst(stream)


def refused() -> Iterator[bytes]:
    """Far more streams than MAX_CONCURRENT_STREAMS, none of them ever ended."""
    for stream in range(1, 1 << 20, 2):
        yield headers(stream)


def malformed() -> Iterator[bytes]:
    """Requests whose only effect is a RST_STREAM of ours."""
    for stream in range(1, 1 << 20, 2):
        yield headers(stream, TRAILERS, True)


def data_on_dead_streams() -> Iterator[bytes]:
    """After the peer's own reset every frame is a stream error once; then the stream is ours to ignore."""
    for stream in range(1, 1 << 20, 2):
        yield headers(stream) + rst(stream) + data(stream)


def setting_flood() -> Iterator[bytes]:
    """CVE-2019-9515."""
    while True:
        yield settings()


def ping_flood() -> Iterator[bytes]:
    """CVE-2019-9512."""
    while True:
        yield PINGED


def empty_data() -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield headers(1)
    while True:
        yield data(1)


def empty_continuations() -> Iterator[bytes]:
    yield headers(1, b"", flags=0)
    while True:
        yield frame(CONTINUATION, 0, 1)


def long_continuations() -> Iterator[bytes]:
    """CVE-2024-27316: a header block that never ends."""
    yield headers(1, REQUEST, flags=0)
    while True:
        yield frame(CONTINUATION, 0, 1, b"\x00\x01x\x7f\x80\x7f" + bytes(16000))


def large_block() -> Iterator[bytes]:
    yield headers(1, b"", flags=0)
    for _ in range(15):
        yield frame(CONTINUATION, 0, 1, bytes(10000))


def priority_flood() -> Iterator[bytes]:
    """CVE-2019-9513."""
    while True:
        yield frame(PRIORITY, 0, 1, bytes(5))


def unknown_flood() -> Iterator[bytes]:
    while True:
        yield frame(0x77, 0, 0, bytes(1000))


def reset_of_nothing() -> Iterator[bytes]:
    yield headers(1) + rst(1)
    while True:
        yield rst(1)


def empty_data_on_a_dead_stream() -> Iterator[bytes]:
    """The stream was malformed, so we have reset it; what comes for it is ignored, but not forever."""
    yield headers(1, TRAILERS)
    while True:
        yield data(1)


def headers_on_a_dead_stream() -> Iterator[bytes]:
    yield headers(1, TRAILERS)
    while True:
        yield headers(1)


FLOODS: list[Callable[[], Iterator[bytes]]] = [
    rapid_reset,
    refused,
    malformed,
    data_on_dead_streams,
    setting_flood,
    ping_flood,
    empty_data,
    empty_continuations,
    long_continuations,
    large_block,
    priority_flood,
    unknown_flood,
    reset_of_nothing,
    empty_data_on_a_dead_stream,
    headers_on_a_dead_stream,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_floods_end_the_connection_and_take_no_memory(flood: Callable[[], Iterator[bytes]]) -> None:
    connection = server(Limits(max_concurrent_streams=100))
    tracemalloc.start()
    try:
        failed = None
        for count, piece in enumerate(flood()):
            assert count < 5000, "the flood goes on"
            for event in connection.receive_data(piece):
                if isinstance(event, ConnectionFailed):
                    failed = event
            if failed:
                break
            connection.data_to_send()
            assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    assert failed is not None
    assert failed.error.code == CALM
    last = frames(connection.data_to_send())[-1]
    assert last.kind == GOAWAY
    assert last.payload[8:], "the reason is told"


def busy_client() -> Iterator[bytes]:
    """Calls that end well, some that are cancelled, a PING now and then: none of it is a flood."""
    for number in range(20000):
        stream = 2 * number + 1
        yield headers(stream) + data(stream, b"\0\0\0\0\0", True) + window(0, 5)


def test_many_calls_are_no_flood() -> None:
    connection = server()
    for piece in busy_client():
        for event in connection.receive_data(piece):
            assert not isinstance(event, ConnectionFailed)
            if isinstance(event, HeadersReceived):
                stream = event.stream_id
        connection.send_response(stream, RESPONSE, b"12345", TRAILERS)
        connection.data_to_send()
    assert connection.open_streams == 0
    assert not connection._gone


def test_cancellations_over_time_are_no_flood() -> None:
    clock = Clock()
    connection = server(clock=clock)
    for number in range(5000):
        clock.now += 0.05
        events = connection.receive_data(headers(2 * number + 1) + rst(2 * number + 1))
        assert [type(event) for event in events] == [HeadersReceived, StreamReset]
    assert len(connection._gone) <= 1000


def test_memory_of_resets_is_bounded() -> None:
    clock = Clock()
    connection = server(clock=clock)
    for number in range(3000):
        clock.now += 1
        connection.receive_data(headers(2 * number + 1) + rst(2 * number + 1))
    assert len(connection._gone) == 1000


def test_a_client_may_cancel_as_often_as_it_likes() -> None:
    """What is on its way then, the server's reset included, is no flood of the server's."""
    connection = client()
    for _ in range(5000):
        stream = connection.open_stream(REQUEST, True)
        connection.reset_stream(stream, 8)
        late = headers(stream, RESPONSE) + data(stream) + headers(stream, TRAILERS, True) + rst(stream)
        assert connection.receive_data(late) == []
        connection.data_to_send()
    assert connection.can_open_stream


# Keepalive (gRPC: "client-side keepalive", enforcement by the server)


def test_pings_without_traffic_are_too_many() -> None:
    clock = Clock()
    connection = server(clock=clock)
    for _ in range(3):
        assert connection.receive_data(PINGED) == []
        clock.now += 1
    (event,) = connection.receive_data(PINGED)
    assert isinstance(event, ConnectionFailed)
    last = frames(connection.data_to_send())[-1]
    assert last.payload[4:8] == bytes((0, 0, 0, CALM))
    assert last.payload[8:] == b"too_many_pings"


def test_patient_pings_are_not() -> None:
    clock = Clock()
    connection = server(clock=clock)
    for _ in range(50):
        assert connection.receive_data(PINGED) == []
        clock.now += 10


def test_pings_that_answer_our_data_are_not() -> None:
    """Go and grpc-core measure the bandwidth by a PING for what they receive."""
    connection = server()
    for stream in range(1, 101, 2):
        connection.receive_data(headers(stream, end=True) + PINGED)
        connection.send_response(stream, RESPONSE, b"", TRAILERS)
        assert connection.receive_data(PINGED) == []


def test_a_client_forgives_pings_up_to_the_burst() -> None:
    connection = H2Connection(True, Limits(), Clock())
    connection.receive_data(settings())
    for _ in range(1000):
        assert connection.receive_data(PINGED) == []
    assert [type(event) for event in connection.receive_data(PINGED)] == [ConnectionFailed]


# Header bombs


def test_a_header_list_too_large_ends_its_stream_only() -> None:
    connection = server(Limits(max_header_list_size=4096))
    encoder = hpack.Encoder()
    block = encoder.encode([*REQUEST_FIELDS, (b"x", b"y" * 5000)])
    assert connection.receive_data(headers(1, block)) == []
    (reset,) = frames(connection.data_to_send())
    assert (reset.kind, reset.stream, reset.word) == (RST_STREAM, 1, CALM)
    (event,) = connection.receive_data(headers(3, encoder.encode(REQUEST_FIELDS)))
    assert isinstance(event, HeadersReceived)
    assert list(event.headers.fields) == REQUEST_FIELDS


def test_a_bomb_of_references_to_a_large_entry() -> None:
    """4 kB in the table, named by one byte each: 60 kB of block would be 240 MB of fields."""
    connection = server()
    connection.receive_data(headers(1, hpack.Encoder().encode([*REQUEST_FIELDS, (b"x", b"y" * 3900)], huffman=False)))
    connection.data_to_send()
    tracemalloc.start()
    try:
        assert connection.receive_data(headers(3, b"\xbe" * 60000)) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert [(each.kind, each.stream) for each in frames(connection.data_to_send())] == [(RST_STREAM, 3)]


def test_trailers_too_large() -> None:
    connection = server(Limits(max_header_list_size=4096))
    connection.receive_data(headers(1))
    block = hpack.Encoder().encode([(b"x", b"y" * 5000)])
    (event,) = connection.receive_data(headers(1, block, True))
    assert isinstance(event, StreamReset)
    assert event.code == CALM


# Slow ones


def test_a_frame_that_comes_slowly_is_kept_once() -> None:
    connection = server()
    connection.receive_data(headers(1))
    body = data(1, bytes(65000))
    tracemalloc.start()
    try:
        for start in range(0, len(body) - 1, 100):
            connection.receive_data(body[start : start + 100] if start + 100 < len(body) else body[start:-1])
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()
    (event,) = connection.receive_data(body[-1:])
    assert event.stream_id == 1


def test_settings_are_acknowledged_once_each() -> None:
    connection = server()
    connection.receive_data(settings() * 50)
    assert [(each.kind, each.flags) for each in frames(connection.data_to_send())] == [(4, ACK)] * 50


def test_streams_within_the_limit_are_served_while_others_are_refused() -> None:
    connection = server(Limits(max_concurrent_streams=2))
    connection.receive_data(headers(1, end=True) + headers(3, end=True) + headers(5, end=True))
    assert [each.stream for each in frames(connection.data_to_send())] == [5]
    connection.send_response(1, RESPONSE, b"", TRAILERS)
    assert [type(event) for event in connection.receive_data(headers(7, end=True))] == [HeadersReceived]
    assert DATA not in {each.kind for each in frames(connection.data_to_send()) if each.stream == 5}
