"""Frames by hand, a reader of frames that shares no code with the connection, and connections joined back to back."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from portside.wire.http2.connection import H2Connection
from portside.wire.http2.hpack import encode
from portside.wire.http2.limits import Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
PRIORITIZED = 0x20

REQUEST_FIELDS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/service/Method"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
REQUEST = encode(REQUEST_FIELDS)
RESPONSE = encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode([(b"grpc-status", b"0")])


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(stream: int, block: bytes = REQUEST, end: bool = False, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream, block)


def data(stream: int, payload: bytes = b"", end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def rst(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def goaway(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def word(self) -> int:
        return struct.unpack_from(">I", self.payload)[0]


def frames(raw: bytes) -> list[Frame]:
    """All frames of a connection's output; the client's preface is skipped."""
    raw = raw.removeprefix(PREFACE)
    found = []
    while raw:
        length = int.from_bytes(raw[:3], "big")
        found.append(Frame(raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9 : 9 + length]))
        assert len(raw) >= 9 + length, "a frame is cut"
        raw = raw[9 + length :]
    return found


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def server(limits: Limits | None = None, clock: Clock | None = None, acknowledge: bool = True) -> H2Connection:
    """A server that has seen the preface, and whose own preface is read."""
    connection = H2Connection(False, limits or Limits(), clock or Clock())
    connection.receive_data(PREFACE + settings() + (frame(SETTINGS, ACK) if acknowledge else b""))
    connection.data_to_send()
    return connection


def client(limits: Limits | None = None, clock: Clock | None = None) -> H2Connection:
    """A client that has seen the server's preface, and whose own is read."""
    connection = H2Connection(True, limits or Limits(), clock or Clock())
    connection.receive_data(settings() + frame(SETTINGS, ACK))
    connection.data_to_send()
    return connection


def exchange(one: H2Connection, other: H2Connection) -> tuple[list, list]:
    """Carry bytes both ways until both are silent; returns the events of each."""
    ours: list = []
    theirs: list = []
    while True:
        there = one.data_to_send()
        back = other.data_to_send()
        if not there and not back:
            return ours, theirs
        if there:
            theirs += other.receive_data(there)
        if back:
            ours += one.receive_data(back)
