"""Every rule of RFC 9113 that a peer can break, as a row: what it sends, and the reaction required of us.

Each stimulus comes after the prefaces. It is fed whole, and byte by byte: the reaction must be the same. Afterwards a
connection that lives must still answer a PING and carry a call.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from portside.wire.http2.connection import H2Connection
from portside.wire.http2.events import ConnectionFailed, DataReceived, HeadersReceived, StreamReset
from portside.wire.http2.hpack import encode
from tests.wire.http2.scripts import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    REQUEST,
    REQUEST_FIELDS,
    RESPONSE,
    RST_STREAM,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    Clock,
    Frame,
    client,
    data,
    frame,
    frames,
    goaway,
    headers,
    rst,
    server,
    settings,
    window,
)

NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 11


@dataclass(frozen=True)
class Ignored:
    """Nothing is sent, nothing happens to the connection."""


@dataclass(frozen=True)
class Stream:
    """RST_STREAM with this code, on stream 1 unless said otherwise; the connection lives."""

    code: int
    stream: int = 1


@dataclass(frozen=True)
class Connection:
    """GOAWAY with this code, and ConnectionFailed."""

    code: int


@dataclass(frozen=True)
class Answered:
    """Exactly these frames are sent."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Accepted:
    """Nothing is sent, and these events come."""

    events: tuple[type, ...]


def fields(*changes: tuple[bytes, bytes | None], drop: tuple[bytes, ...] = ()) -> bytes:
    """The block of a good request, with fields replaced or added at the end."""
    names = {name for name, _ in changes}
    kept = [field for field in REQUEST_FIELDS if field[0] not in names and field[0] not in drop]
    pseudo = [change for change in changes if change[0].startswith(b":")]
    rest = [change for change in changes if not change[0].startswith(b":")]
    return encode([*pseudo, *kept, *rest])


def request(*extra: tuple[bytes, bytes]) -> bytes:
    """A request with more fields at its end."""
    return headers(1, encode(REQUEST_FIELDS + list(extra)), end=True)


BAD_INDEX = b"\xff\x80\x80\x01"
SPLIT = len(REQUEST) // 2
FAR = 0x7FFFFFFF

SERVER_RULES = [
    # 3.4 Connection preface
    ("3.4 HTTP/1.1", None, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Connection(PROTOCOL)),
    ("3.4 first frame is not SETTINGS", None, PREFACE + frame(PING, 0, 0, bytes(8)), Connection(PROTOCOL)),
    ("3.4 first frame is an acknowledgement", None, PREFACE + frame(SETTINGS, ACK), Connection(PROTOCOL)),
    # 4.1 Frame format
    ("4.1 unknown type", "", frame(0x77, 0xFF, 0, b"whatever"), Ignored()),
    ("4.1 unknown type on a stream", "", frame(0x77, 0xFF, 9, b"whatever"), Ignored()),
    ("4.1 unknown flags", "", headers(1, REQUEST, flags=END_HEADERS | 0xD2), Accepted((HeadersReceived,))),
    (
        "4.1 reserved bit of the stream number",
        "",
        frame(HEADERS, END_HEADERS, 0x80000001, REQUEST),
        Accepted((HeadersReceived,)),
    ),
    # 4.2 Frame size
    ("4.2 DATA larger than our MAX_FRAME_SIZE", "open", frame(DATA, 0, 1, b"", 65537), Connection(SIZE)),
    ("4.2 HEADERS larger than our MAX_FRAME_SIZE", "", frame(HEADERS, 0, 1, b"", 65537), Connection(SIZE)),
    ("4.2 unknown frame larger than our MAX_FRAME_SIZE", "", frame(0x77, 0, 1, b"", 65537), Connection(SIZE)),
    # 4.3 Field blocks
    ("4.3 a block that does not decode", "", headers(1, BAD_INDEX), Connection(COMPRESSION)),
    ("4.3 a block that ends early", "", headers(1, REQUEST[:-1]), Connection(COMPRESSION)),
    ("4.3 trailers that do not decode", "open", headers(1, BAD_INDEX, end=True), Connection(COMPRESSION)),
    # 5.1 Stream states
    ("5.1 idle: DATA", "", data(1, b"x"), Connection(PROTOCOL)),
    ("5.1 idle: RST_STREAM", "", rst(1), Connection(PROTOCOL)),
    ("5.1 idle: WINDOW_UPDATE", "", window(1, 1), Connection(PROTOCOL)),
    ("5.1 idle: PRIORITY", "", frame(PRIORITY, 0, 1, bytes(4) + b"\x10"), Ignored()),
    ("5.1 half-closed (remote): DATA", "ended", data(1, b"x"), Stream(CLOSED)),
    ("5.1 half-closed (remote): HEADERS", "ended", headers(1, TRAILERS, end=True), Stream(CLOSED)),
    ("5.1 half-closed (remote): CONTINUATION", "ended", frame(CONTINUATION, 4, 1, TRAILERS), Connection(PROTOCOL)),
    ("5.1 half-closed (remote): WINDOW_UPDATE", "ended", window(1, 5), Ignored()),
    ("5.1 half-closed (remote): PRIORITY", "ended", frame(PRIORITY, 0, 1, bytes(5)), Ignored()),
    ("5.1 half-closed (remote): RST_STREAM", "ended", rst(1), Accepted((StreamReset,))),
    ("5.1 half-closed (local): DATA", "answered", data(1, b"x"), Accepted((DataReceived,))),
    ("5.1 half-closed (local): trailers", "answered", headers(1, TRAILERS, end=True), Accepted((HeadersReceived,))),
    ("5.1 half-closed (local): RST_STREAM", "answered", rst(1), Accepted((StreamReset,))),
    ("5.1 closed by both: DATA", "done", data(1, b"x"), Connection(CLOSED)),
    ("5.1 closed by both: HEADERS", "done", headers(1), Connection(CLOSED)),
    ("5.1 closed by both: WINDOW_UPDATE", "done", window(1, 1), Ignored()),
    ("5.1 closed by both: RST_STREAM", "done", rst(1), Ignored()),
    ("5.1 closed by both: PRIORITY", "done", frame(PRIORITY, 0, 1, bytes(5)), Ignored()),
    ("5.1 closed by the peer's reset: DATA", "reset by peer", data(1, b"x"), Stream(CLOSED)),
    ("5.1 closed by the peer's reset: HEADERS", "reset by peer", headers(1), Stream(CLOSED)),
    ("5.1 closed by the peer's reset: WINDOW_UPDATE", "reset by peer", window(1, 1), Ignored()),
    ("5.1 closed by our reset: DATA", "reset by us", data(1, b"x"), Ignored()),
    ("5.1 closed by our reset: trailers", "reset by us", headers(1, TRAILERS, end=True), Ignored()),
    ("5.1 closed by our reset: WINDOW_UPDATE", "reset by us", window(1, 1), Ignored()),
    ("5.1 closed by our reset: RST_STREAM", "reset by us", rst(1), Ignored()),
    # 5.1.1 Stream identifiers
    ("5.1.1 an even stream", "", headers(2), Connection(PROTOCOL)),
    # Whether a lower stream was skipped or is over is not remembered; both codes end the connection.
    ("5.1.1 a stream below one that was used", "", headers(5) + headers(3), Connection(CLOSED)),
    # 5.1.2 Concurrency
    ("5.1.2 one stream too many", "full", headers(5), Stream(REFUSED, 5)),
    # 6.1 DATA
    ("6.1 DATA on stream 0", "", data(0, b"x"), Connection(PROTOCOL)),
    ("6.1 padding", "open", frame(DATA, PADDED, 1, b"\x03abc\0\0\0"), Accepted((DataReceived,))),
    ("6.1 only padding", "open", frame(DATA, PADDED, 1, b"\x03\0\0\0"), Accepted((DataReceived,))),
    ("6.1 padding as long as the payload", "open", frame(DATA, PADDED, 1, b"\x04\0\0\0"), Connection(PROTOCOL)),
    ("6.1 padded without its length", "open", frame(DATA, PADDED, 1, b""), Connection(SIZE)),
    # 6.2 HEADERS
    ("6.2 HEADERS on stream 0", "", headers(0), Connection(PROTOCOL)),
    (
        "6.2 padding",
        "",
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\x02" + REQUEST + b"\0\0"),
        Accepted((HeadersReceived,)),
    ),
    (
        "6.2 priority",
        "",
        frame(HEADERS, END_HEADERS | PRIORITIZED, 1, b"\x80\0\0\x03\xff" + REQUEST),
        Accepted((HeadersReceived,)),
    ),
    (
        "6.2 padding and priority",
        "",
        frame(HEADERS, END_HEADERS | PADDED | PRIORITIZED, 1, b"\x02" + bytes(5) + REQUEST + b"\0\0"),
        Accepted((HeadersReceived,)),
    ),
    (
        "6.2 padding as long as the payload",
        "",
        frame(HEADERS, END_HEADERS | PADDED, 1, bytes((len(REQUEST) + 1,)) + REQUEST),
        Connection(PROTOCOL),
    ),
    ("6.2 no room for the priority", "", frame(HEADERS, END_HEADERS | PRIORITIZED, 1, b"abc"), Connection(SIZE)),
    # 6.3 PRIORITY
    ("6.3 PRIORITY on stream 0", "", frame(PRIORITY, 0, 0, bytes(5)), Connection(PROTOCOL)),
    ("6.3 PRIORITY of 4 bytes", "open", frame(PRIORITY, 0, 1, bytes(4)), Stream(SIZE)),
    ("6.3 PRIORITY of 4 bytes, idle", "", frame(PRIORITY, 0, 1, bytes(4)), Connection(SIZE)),
    ("6.3 PRIORITY", "open", frame(PRIORITY, 0, 1, bytes(5)), Ignored()),
    # 6.4 RST_STREAM
    ("6.4 RST_STREAM on stream 0", "", rst(0), Connection(PROTOCOL)),
    ("6.4 RST_STREAM of 3 bytes", "open", frame(RST_STREAM, 0, 1, bytes(3)), Connection(SIZE)),
    ("6.4 RST_STREAM with an unknown code", "open", rst(1, 0xFFFFFFFF), Accepted((StreamReset,))),
    # 6.5 SETTINGS
    ("6.5 SETTINGS on a stream", "open", frame(SETTINGS, 0, 1), Connection(PROTOCOL)),
    ("6.5 SETTINGS of 5 bytes", "", frame(SETTINGS, 0, 0, bytes(5)), Connection(SIZE)),
    ("6.5 acknowledgement with content", "", frame(SETTINGS, ACK, 0, bytes(6)), Connection(SIZE)),
    ("6.5 an acknowledgement of nothing", "", frame(SETTINGS, ACK), Ignored()),
    ("6.5 SETTINGS are acknowledged", "", settings((3, 7), (1, 0)), Answered((Frame(SETTINGS, ACK, 0, b""),))),
    ("6.5.2 unknown setting", "", settings((0xABCD, 7)), Answered((Frame(SETTINGS, ACK, 0, b""),))),
    ("6.5.2 ENABLE_PUSH 2", "", settings((2, 2)), Connection(PROTOCOL)),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", "", settings((4, 1 << 31)), Connection(FLOW)),
    ("6.5.2 MAX_FRAME_SIZE 16383", "", settings((5, 16383)), Connection(PROTOCOL)),
    ("6.5.2 MAX_FRAME_SIZE 2^24", "", settings((5, 1 << 24)), Connection(PROTOCOL)),
    (
        "6.9.2 INITIAL_WINDOW_SIZE overflows a stream",
        "open",
        window(1, FAR - 65535) + settings((4, 65536)),
        Connection(FLOW),
    ),
    # 6.6 PUSH_PROMISE
    ("6.6 PUSH_PROMISE by a client", "open", frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + REQUEST), Connection(PROTOCOL)),
    # 6.7 PING
    ("6.7 PING", "", frame(PING, 0, 0, b"12345678"), Answered((Frame(PING, ACK, 0, b"12345678"),))),
    ("6.7 PING with unknown flags", "", frame(PING, 0xFE, 0, b"12345678"), Answered((Frame(PING, 1, 0, b"12345678"),))),
    ("6.7 an answer to no PING", "", frame(PING, ACK, 0, b"12345678"), Ignored()),
    ("6.7 PING on a stream", "open", frame(PING, 0, 1, bytes(8)), Connection(PROTOCOL)),
    ("6.7 PING of 7 bytes", "", frame(PING, 0, 0, bytes(7)), Connection(SIZE)),
    # 6.8 GOAWAY
    ("6.8 GOAWAY on a stream", "open", frame(GOAWAY, 0, 1, bytes(8)), Connection(PROTOCOL)),
    ("6.8 GOAWAY of 7 bytes", "", frame(GOAWAY, 0, 0, bytes(7)), Connection(SIZE)),
    ("6.8 GOAWAY", "", goaway(0, 0, b"bye"), Ignored()),
    ("6.8 two GOAWAYs", "", goaway(FAR) + goaway(0), Ignored()),
    ("6.8 a second GOAWAY that takes more", "", goaway(2) + goaway(4), Connection(PROTOCOL)),
    # 6.9 WINDOW_UPDATE
    ("6.9 by 0 on the connection", "", window(0, 0), Connection(PROTOCOL)),
    ("6.9 by 0 on a stream", "open", window(1, 0), Stream(PROTOCOL)),
    ("6.9 of 3 bytes", "", frame(WINDOW_UPDATE, 0, 0, bytes(3)), Connection(SIZE)),
    ("6.9.1 overflow on the connection", "", window(0, FAR), Connection(FLOW)),
    ("6.9.1 overflow on a stream", "open", window(1, FAR), Stream(FLOW)),
    ("6.9.1 the largest window", "open", window(1, FAR - 65535), Ignored()),
    # 6.10 CONTINUATION
    (
        "6.10 in two",
        "",
        headers(1, REQUEST[:SPLIT], flags=0) + frame(CONTINUATION, 4, 1, REQUEST[SPLIT:]),
        Accepted((HeadersReceived,)),
    ),
    (
        "6.10 END_STREAM stands on HEADERS",
        "",
        headers(1, REQUEST[:SPLIT], flags=END_STREAM) + frame(CONTINUATION, 4, 1, REQUEST[SPLIT:]),
        Accepted((HeadersReceived,)),
    ),
    ("6.10 CONTINUATION of nothing", "open", frame(CONTINUATION, 4, 1, REQUEST), Connection(PROTOCOL)),
    ("6.10 CONTINUATION on stream 0", "", headers(1, flags=0) + frame(CONTINUATION, 4, 0), Connection(PROTOCOL)),
    ("6.10 of another stream", "", headers(1, flags=0) + frame(CONTINUATION, 4, 3), Connection(PROTOCOL)),
    ("6.10 DATA in between", "", headers(1, flags=0) + data(1), Connection(PROTOCOL)),
    ("6.10 PING in between", "", headers(1, flags=0) + frame(PING, 0, 0, bytes(8)), Connection(PROTOCOL)),
    ("6.10 an unknown frame in between", "", headers(1, flags=0) + frame(0x77, 0, 1), Connection(PROTOCOL)),
    ("6.10 HEADERS in between", "", headers(1, flags=0) + headers(1), Connection(PROTOCOL)),
    # 8.1 Message framing
    ("8.1 trailers", "open", headers(1, TRAILERS, end=True), Accepted((HeadersReceived,))),
    ("8.1 trailers that do not end the stream", "open", headers(1, TRAILERS), Stream(PROTOCOL)),
    (
        "8.1.1 content-length too small",
        "",
        headers(1, fields((b"content-length", b"2"))) + data(1, b"abc", True),
        Stream(PROTOCOL),
    ),
    (
        "8.1.1 content-length too large",
        "",
        headers(1, fields((b"content-length", b"4"))) + data(1, b"abc", True),
        Stream(PROTOCOL),
    ),
    ("8.1.1 content-length without content", "", request((b"content-length", b"4")), Stream(PROTOCOL)),
    (
        "8.1.1 content-length before trailers",
        "",
        headers(1, fields((b"content-length", b"4"))) + headers(1, TRAILERS, end=True),
        Stream(PROTOCOL),
    ),
    (
        "8.1.1 content-length that is right",
        "",
        headers(1, fields((b"content-length", b"3"))) + data(1, b"abc", True),
        Accepted((HeadersReceived, DataReceived)),
    ),
    (
        "8.1.1 content-length twice, different",
        "",
        request((b"content-length", b"0"), (b"content-length", b"1")),
        Stream(PROTOCOL),
    ),
    ("8.1.1 content-length that is no number", "", request((b"content-length", b"+0")), Stream(PROTOCOL)),
    # 8.2 Fields
    ("8.2.1 upper case in a name", "", request((b"X-Upper", b"1")), Stream(PROTOCOL)),
    ("8.2.1 blank in a name", "", request((b"x y", b"1")), Stream(PROTOCOL)),
    ("8.2.1 control character in a name", "", request((b"x\x7f", b"1")), Stream(PROTOCOL)),
    ("8.2.1 colon in a name", "", request((b"x:y", b"1")), Stream(PROTOCOL)),
    ("8.2.1 a name of more than ASCII", "", request((b"x\xe4", b"1")), Stream(PROTOCOL)),
    ("8.2.1 an empty name", "", request((b"", b"1")), Stream(PROTOCOL)),
    ("8.2.1 NUL in a value", "", request((b"x", b"a\0b")), Stream(PROTOCOL)),
    ("8.2.1 CR in a value", "", request((b"x", b"a\rb")), Stream(PROTOCOL)),
    ("8.2.1 LF in a value", "", request((b"x", b"a\nb")), Stream(PROTOCOL)),
    ("8.2.1 a value that begins with a blank", "", request((b"x", b" a")), Stream(PROTOCOL)),
    ("8.2.1 a value that ends with a tab", "", request((b"x", b"a\t")), Stream(PROTOCOL)),
    ("8.2.1 an empty value", "", request((b"x", b"")), Accepted((HeadersReceived,))),
    ("8.2.1 more than ASCII in a value", "", request((b"x", b"\xc3\xa4")), Accepted((HeadersReceived,))),
    ("8.2.2 connection", "", request((b"connection", b"close")), Stream(PROTOCOL)),
    ("8.2.2 proxy-connection", "", request((b"proxy-connection", b"close")), Stream(PROTOCOL)),
    ("8.2.2 keep-alive", "", request((b"keep-alive", b"1")), Stream(PROTOCOL)),
    ("8.2.2 transfer-encoding", "", request((b"transfer-encoding", b"chunked")), Stream(PROTOCOL)),
    ("8.2.2 upgrade", "", request((b"upgrade", b"h2c")), Stream(PROTOCOL)),
    ("8.2.2 te: gzip", "", headers(1, fields((b"te", b"gzip"))), Stream(PROTOCOL)),
    # 8.3 Control data
    ("8.3 pseudo-header after a field", "", headers(1, encode([*REQUEST_FIELDS, (b":path", b"/")])), Stream(PROTOCOL)),
    ("8.3 unknown pseudo-header", "", headers(1, fields((b":new", b"1"))), Stream(PROTOCOL)),
    ("8.3 pseudo-header of a response", "", headers(1, fields((b":status", b"200"))), Stream(PROTOCOL)),
    ("8.3 pseudo-header twice", "", headers(1, fields((b":path", b"/"), (b":path", b"/"))), Stream(PROTOCOL)),
    ("8.3 pseudo-header in trailers", "open", headers(1, encode([(b":path", b"/")]), end=True), Stream(PROTOCOL)),
    ("8.3.1 no :method", "", headers(1, fields(drop=(b":method",))), Stream(PROTOCOL)),
    ("8.3.1 no :scheme", "", headers(1, fields(drop=(b":scheme",))), Stream(PROTOCOL)),
    ("8.3.1 no :path", "", headers(1, fields(drop=(b":path",))), Stream(PROTOCOL)),
    ("8.3.1 empty :path", "", headers(1, fields((b":path", b""))), Stream(PROTOCOL)),
    ("8.3.1 no :authority", "", headers(1, fields(drop=(b":authority",))), Accepted((HeadersReceived,))),
    ("8.3.1 an empty list", "", headers(1, b""), Stream(PROTOCOL)),
    (
        "8.5 CONNECT",
        "",
        headers(1, encode([(b":method", b"CONNECT"), (b":authority", b"x:1")])),
        Accepted((HeadersReceived,)),
    ),
    ("8.5 CONNECT with a path", "", headers(1, fields((b":method", b"CONNECT"))), Stream(PROTOCOL)),
]

CLIENT_RULES = [
    ("3.4 first frame is not SETTINGS", None, frame(PING, 0, 0, bytes(8)), Connection(PROTOCOL)),
    ("5.1 idle: DATA", "", data(1, b"x"), Connection(PROTOCOL)),
    ("5.1 idle: HEADERS", "", headers(1, RESPONSE), Connection(PROTOCOL)),
    ("5.1.1 a stream of the server", "", headers(2, RESPONSE), Connection(PROTOCOL)),
    ("6.5.2 a server that enables push", "", settings((2, 1)), Connection(PROTOCOL)),
    ("6.6 PUSH_PROMISE", "asked", frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + REQUEST), Connection(PROTOCOL)),
    ("8.1 response", "asked", headers(1, RESPONSE), Accepted((HeadersReceived,))),
    ("8.1 DATA before the response", "asked", data(1, b"x"), Stream(PROTOCOL)),
    ("8.1 DATA after the response", "response", data(1, b"x"), Accepted((DataReceived,))),
    ("8.1 trailers", "response", headers(1, TRAILERS, end=True), Accepted((HeadersReceived,))),
    ("8.1 trailers that do not end the stream", "response", headers(1, TRAILERS), Stream(PROTOCOL)),
    ("8.1 a second response", "response", headers(1, RESPONSE, end=True), Stream(PROTOCOL)),
    ("8.1 100 and the response", "asked", headers(1, encode([(b":status", b"100")])) + headers(1, RESPONSE),
     Accepted((HeadersReceived, HeadersReceived))),
    ("8.1 100 that ends the stream", "asked", headers(1, encode([(b":status", b"100")]), end=True), Stream(PROTOCOL)),
    ("8.1.1 content-length too large", "asked",
     headers(1, encode([(b":status", b"200"), (b"content-length", b"3")])) + data(1, b"ab", True), Stream(PROTOCOL)),
    ("8.3.2 no :status", "asked", headers(1, encode([(b"server", b"x")])), Stream(PROTOCOL)),
    ("8.3.2 a :status that is no number", "asked", headers(1, encode([(b":status", b"20x")])), Stream(PROTOCOL)),
    ("8.3.2 pseudo-header of a request", "asked", headers(1, encode([(b":status", b"200"), (b":path", b"/")])),
     Stream(PROTOCOL)),
    ("8.2.2 connection", "asked", headers(1, encode([(b":status", b"200"), (b"connection", b"close")])),
     Stream(PROTOCOL)),
    ("6.8 GOAWAY that excludes the stream", "asked", goaway(0), Accepted((StreamReset,))),
    ("6.8 GOAWAY that includes the stream", "asked", goaway(1) + headers(1, RESPONSE), Accepted((HeadersReceived,))),
    ("6.9 WINDOW_UPDATE on an idle stream", "asked", window(3, 1), Connection(PROTOCOL)),
    ("5.1 RST_STREAM", "asked", rst(1), Accepted((StreamReset,))),
]  # fmt: skip


def prepare_server(state: str | None) -> H2Connection:
    """A server whose stream 1 is in ``state``; None is a server that has seen nothing."""
    if state is None:
        return H2Connection(False, clock=Clock())
    connection = server()
    if state:
        connection.receive_data(headers(1, end=state in ("ended", "done")))
    match state:
        case "answered" | "done":
            connection.send_headers(1, RESPONSE)
            connection.send_headers(1, TRAILERS, True)
        case "reset by peer":
            connection.receive_data(rst(1))
        case "reset by us":
            connection.reset_stream(1, CANCEL)
        case "full":
            connection.receive_data(headers(3))
            connection.limits.max_concurrent_streams = 2
    connection.data_to_send()
    return connection


def prepare_client(state: str | None) -> H2Connection:
    if state is None:
        connection = H2Connection(True, clock=Clock())
    else:
        connection = client()
        if state:
            connection.open_stream(REQUEST, True)
        if state == "response":
            connection.receive_data(headers(1, RESPONSE))
    connection.data_to_send()
    return connection


def check(connection: H2Connection, stimulus: list[bytes], reaction: object) -> None:
    events = [event for piece in stimulus for event in connection.receive_data(piece)]
    sent = frames(connection.data_to_send())
    failed = [event for event in events if isinstance(event, ConnectionFailed)]
    shown = [type(event) for event in events if isinstance(event, HeadersReceived | DataReceived | StreamReset)]
    match reaction:
        case Connection(code):
            assert [event.error.code for event in failed] == [code]
            assert events[-1] is failed[0]
            assert sent[-1].kind == GOAWAY
            assert int.from_bytes(sent[-1].payload[4:8], "big") == code
            assert connection.receive_data(frame(PING, 0, 0, bytes(8))) == []
            assert connection.data_to_send() == b""
            return
        case Stream(code, stream):
            assert [(each.kind, each.stream, each.word) for each in sent if each.kind != SETTINGS] == [
                (RST_STREAM, stream, code)
            ]
        case Ignored():
            assert [each for each in sent if each != Frame(SETTINGS, ACK, 0, b"")] == []
            assert shown == []
        case Answered(expected):
            assert tuple(sent) == expected
        case Accepted(kinds):
            assert sent == []
            assert tuple(shown) == kinds
    assert not failed


def check_alive(connection: H2Connection) -> None:
    """It answers a PING, and a server takes another request."""
    connection.receive_data(frame(PING, 0, 0, b"are you?"))
    assert frames(connection.data_to_send()) == [Frame(PING, ACK, 0, b"are you?")]
    if connection.client or connection.going_away:
        return
    events = connection.receive_data(headers(101, REQUEST, True))
    assert [type(event) for event in events] in ([HeadersReceived], [])


def pieces(stimulus: bytes, how: str) -> list[bytes]:
    return [stimulus] if how == "whole" else [stimulus[i : i + 1] for i in range(len(stimulus))]


@pytest.mark.parametrize("how", ["whole", "bytes"])
@pytest.mark.parametrize("row", SERVER_RULES, ids=lambda row: row[0])
def test_server(row: tuple, how: str) -> None:
    _, state, stimulus, reaction = row
    connection = prepare_server(state)
    check(connection, pieces(stimulus, how), reaction)
    if not isinstance(reaction, Connection):
        check_alive(connection)


@pytest.mark.parametrize("how", ["whole", "bytes"])
@pytest.mark.parametrize("row", CLIENT_RULES, ids=lambda row: row[0])
def test_client(row: tuple, how: str) -> None:
    _, state, stimulus, reaction = row
    connection = prepare_client(state)
    check(connection, pieces(stimulus, how), reaction)
    if not isinstance(reaction, Connection):
        check_alive(connection)


def test_names_of_rules_are_unique() -> None:
    for rules in (SERVER_RULES, CLIENT_RULES):
        names = [row[0] for row in rules]
        assert len(names) == len(set(names))
