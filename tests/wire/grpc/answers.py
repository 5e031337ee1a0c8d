"""A scripted gRPC server: what it sends is exactly what stands here, and what a client must make of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from hpack import Encoder

from portside.errors import (
    Cancelled,
    Internal,
    NotFound,
    PortsideError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)
from portside.wire.grpc.protocol import frame_compressed
from portside.wire.http2 import hpack
from portside.wire.http2.frames import FRAME_HEADER, frame, goaway, rst_stream, settings, window_update

HEAD = hpack.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
ZIPPED = hpack.encode([(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-encoding", b"gzip")])
GOOD = hpack.encode([(b"grpc-status", b"0")])


def headers(block: bytes, *, end: bool = False, stream: int = 1, flags: int = 4) -> bytes:
    return frame(1, flags | end, stream, block)


def data(message: bytes, stream: int = 1, flags: int = 0) -> bytes:
    return frame(0, flags, stream, b"\0" + len(message).to_bytes(4, "big") + message)


def serve(path: Path, *connections: list[bytes]) -> Callable[[], list[bytes]]:
    """For each connection the answers to its calls, in order; the result gives what each connection received."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    received: list[bytes] = []

    def run() -> None:
        for answers in connections:
            try:
                connection, _ = listener.accept()
            except OSError:  # ``join`` has been called
                break
            connection.settimeout(20)
            got = b""
            connection.sendall(settings({}))
            for number, answer in enumerate(answers):
                while got.count(b"application/grpc") <= number:
                    got += connection.recv(65536)
                connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                got += more
            connection.close()
            received.append(got)
        listener.close()

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> list[bytes]:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        assert not thread.is_alive()
        return received

    return join


def indexed() -> bytes:
    """An answer whose header blocks use Huffman code and the dynamic table."""
    encoder = Encoder()
    head = encoder.encode([(":status", "200"), ("content-type", "application/grpc"), ("x", "y")])
    return headers(head) + data(b"yes") + headers(encoder.encode([("grpc-status", "0"), ("x", "y")]), end=True)


ANSWERS = {
    "as our servers answer": headers(b"\x20" + HEAD) + data(b"yes") + headers(GOOD, end=True),
    "in one message cut in two": headers(HEAD)
    + frame(0, 0, 1, b"\0\0\0\0\3y")
    + frame(0, 0, 1, b"es")
    + headers(GOOD, end=True),
    "with CONTINUATION": headers(HEAD[:3], flags=0)
    + frame(9, 0, 1, HEAD[3:9])
    + frame(9, 4, 1, HEAD[9:])
    + data(b"yes")
    + headers(GOOD[:1], flags=1)
    + frame(9, 4, 1, GOOD[1:]),
    "padded": frame(1, 4 | 8, 1, b"\3" + HEAD + bytes(3))
    + frame(0, 8, 1, b"\2\0\0\0\0\3yes" + bytes(2))
    + headers(GOOD, end=True),
    "with a priority": frame(1, 4 | 32, 1, bytes(5) + HEAD) + data(b"yes") + headers(GOOD, end=True),
    "informational first": headers(hpack.encode([(b":status", b"103")]))
    + headers(HEAD)
    + data(b"yes")
    + headers(GOOD, end=True),
    "among frames of others": frame(6, 0, 0, b"pingpong")
    + headers(HEAD)
    + settings({4: 100})
    + window_update(0, 9)
    + window_update(1, 9)
    + frame(0x42, 0, 0, b"zz")
    + frame(2, 0, 1, bytes(5))
    + data(b"yes")
    + headers(GOOD, end=True)
    + rst_stream(1, 0),
    "compressed": headers(ZIPPED) + frame(0, 0, 1, frame_compressed(b"yes")) + headers(GOOD, end=True),
    "by an encoder with a table": indexed(),
    "with an empty message before the end of the stream": headers(HEAD)
    + data(b"yes")
    + frame(0, 0, 1, b"")
    + headers(GOOD, end=True),
}


def status(*fields: tuple[bytes, bytes]) -> bytes:
    return hpack.encode([(b":status", b"200"), (b"content-type", b"application/grpc"), *fields])


FAILURES: dict[str, tuple[bytes, type[PortsideError], str]] = {
    "trailers only": (
        headers(status((b"grpc-status", b"5"), (b"grpc-message", b"no%20%C3%BC")), end=True),
        NotFound,
        "no ü",
    ),
    "no status": (
        headers(HEAD) + data(b"yes") + headers(hpack.encode([(b"x", b"y")]), end=True),
        Unknown,
        "without a status",
    ),
    "a status that is none": (headers(status((b"grpc-status", b"five")), end=True), Unknown, "without a status"),
    "a status nobody defined": (headers(status((b"grpc-status", b"99")), end=True), Unknown, "^$"),
    "data that ends the stream": (headers(HEAD) + data(b"yes", flags=1), Internal, "without a status"),
    "HTTP 404": (headers(hpack.encode([(b":status", b"404")]), end=True), Unimplemented, "404"),
    "HTTP 503": (headers(hpack.encode([(b":status", b"503")])), Unavailable, "503"),
    "reset": (headers(HEAD) + rst_stream(1, 2), Internal, "INTERNAL_ERROR"),
    "cancelled": (rst_stream(1, 8), Cancelled, "cancelled"),
    "calm down": (rst_stream(1, 11), ResourceExhausted, "CALM"),
    "refused": (rst_stream(1, 7), Unavailable, "refused"),
    "going away before": (goaway(0, 0), Unavailable, "going away"),
    "no message": (headers(HEAD) + headers(GOOD, end=True), Internal, "0 messages"),
    "two messages": (headers(HEAD) + data(b"a") + data(b"b") + headers(GOOD, end=True), Internal, "2 messages"),
    "half a message": (
        headers(HEAD) + frame(0, 0, 1, b"\0\0\0\0\3y") + headers(GOOD, end=True),
        Internal,
        "in the middle",
    ),
    "compressed without an encoding": (
        headers(HEAD) + frame(0, 0, 1, frame_compressed(b"yes")) + headers(GOOD, end=True),
        Internal,
        "grpc-encoding",
    ),
    "bad gzip": (headers(ZIPPED) + frame(0, 0, 1, b"\1\0\0\0\3yes") + headers(GOOD, end=True), Internal, "decompress"),
    "gone": (headers(HEAD) + data(b"yes"), Unavailable, "closed"),
    "gone at once": (b"", Unavailable, "closed"),
    "a frame too large": (FRAME_HEADER.pack(16385 << 8, 0, 1), Internal, "too large"),
    "a header block broken": (headers(b"\xff\xff\xff"), Internal, "HTTP/2"),
    "an index without entry": (headers(b"\xc0"), Internal, "HTTP/2"),
    "CONTINUATION of nothing": (frame(9, 4, 1, GOOD), Internal, "CONTINUATION"),
    "a block not continued": (headers(HEAD, flags=0) + data(b"yes"), Internal, "continued"),
    "headers without end": (headers(b"", flags=0) + frame(9, 0, 1, bytes(16384)) * 5, Internal, "too large"),
    "more padding than content": (frame(0, 8, 1, b"\5abc"), Internal, "padding"),
    "an empty padded frame": (frame(0, 8, 1, b""), Internal, "HTTP/2"),
    "a short RST_STREAM": (frame(3, 0, 1, b"ab"), Internal, "size"),
}
