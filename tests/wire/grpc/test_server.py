"""The server against a client that misbehaves, is slow, or goes away; and the server's own beginning and end."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from portside import errors
from portside.wire.grpc.limits import ServerLimits
from portside.wire.grpc.protocol import PREFIX, frame
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Framed, Method
from portside.wire.http2.limits import Limits
from tests.wire.grpc.raw import Answer, Bytes, RawClient, request
from tests.wire.http2.scripts import GOAWAY, PING, data, frames, headers, rst
from tests.wire.http2.scripts import frame as http2_frame

OK, CANCELLED, UNKNOWN, INVALID, DEADLINE, NOT_FOUND = range(6)
EXHAUSTED, UNIMPLEMENTED, INTERNAL = 8, 12, 13


class Number(Bytes):
    """A message that not all bytes are."""

    @classmethod
    def FromString(cls, raw: bytes) -> Number:
        return cls(b"%d" % int(raw))


class Service:
    """Handlers of every kind; what they did is recorded."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.produced = 0
        self.taken = 0
        self.call: Any = None

    def methods(self) -> list[Method]:
        def row(name: str, client: bool = False, server: bool = False, inline: bool = False) -> Method:
            return Method(f"/t.S/{name}", Bytes, Bytes, getattr(self, name), client, server, inline)

        return [
            row("echo"),
            row("echo_inline", inline=True),
            Method("/t.S/number", Number, Bytes, self.echo),
            Method("/t.S/number_inline", Number, Bytes, self.echo_inline, inline=True),
            row("waits_inline", inline=True),
            row("fails"),
            row("fails_inline", inline=True),
            row("breaks"),
            row("cancels_itself"),
            row("sleeps"),
            row("waits_for_ever"),
            row("metadata"),
            row("bad_metadata"),
            row("not_a_message"),
            row("packs"),
            row("packs_stream", server=True),
            row("late_header", server=True),
            row("produce", server=True),
            row("produce_framed", server=True),
            row("fails_late", server=True),
            row("collect", client=True),
            row("collect_slowly", client=True),
            row("takes_one", client=True),
            row("chat", client=True, server=True),
        ]

    async def echo(self, message: Bytes, call: Any) -> Bytes:
        return message

    async def echo_inline(self, message: Bytes, call: Any) -> Bytes:
        return message

    async def waits_inline(self, message: Bytes, call: Any) -> Bytes:
        self.started.set()
        await asyncio.sleep(0)
        await self.go_on.wait()
        await asyncio.sleep(0)
        return Bytes(message.raw + asyncio.current_task().get_name().encode())  # type: ignore[union-attr]

    async def fails(self, message: Bytes, call: Any) -> Bytes:
        raise errors.NotFound(f'content "{message.raw.decode()}": not found')

    async def fails_inline(self, message: Bytes, call: Any) -> Bytes:
        raise errors.NotFound("here too")

    async def breaks(self, message: Bytes, call: Any) -> Bytes:
        raise ZeroDivisionError("a defect")

    async def cancels_itself(self, message: Bytes, call: Any) -> Bytes:
        raise asyncio.CancelledError

    async def waits_for_ever(self, message: Bytes, call: Any) -> Bytes:
        call.endless = True
        return await self.sleeps(message, call)

    async def sleeps(self, message: Bytes, call: Any) -> Bytes:
        self.call = call
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return message

    async def metadata(self, message: Bytes, call: Any) -> Bytes:
        for key, value in call.metadata.items():
            call.set_trailer("seen-" + key, value)
        return Bytes(repr(sorted(call.metadata.items())).encode())

    async def bad_metadata(self, message: Bytes, call: Any) -> Bytes:
        call.set_trailer("key", message.raw.decode("latin-1"))
        return message

    async def not_a_message(self, message: Bytes, call: Any) -> Any:
        return None

    async def packs(self, message: Bytes, call: Any) -> Bytes:
        call.compress()
        return message

    async def packs_stream(self, message: Bytes, call: Any) -> AsyncIterator[Bytes]:
        call.compress()
        yield message
        yield message

    async def late_header(self, message: Bytes, call: Any) -> AsyncIterator[Bytes]:
        call.set_header("early", "1")
        yield message
        call.set_header("late", "1")

    async def produce(self, message: Bytes, call: Any) -> AsyncIterator[Bytes]:
        size, count = map(int, message.raw.split())
        try:
            for number in range(count):
                self.produced += 1
                yield Bytes(number.to_bytes(4, "big") + bytes(size - 4))
        finally:
            self.cancelled.set()

    async def produce_framed(self, message: Bytes, call: Any) -> AsyncIterator[Framed]:
        size, count = map(int, message.raw.split())
        for number in range(count):
            self.produced += 1
            yield Framed([number.to_bytes(4, "big"), memoryview(bytearray(size - 4))])

    async def fails_late(self, message: Bytes, call: Any) -> AsyncIterator[Bytes]:
        yield message
        raise errors.OutOfRange("no more")

    async def collect(self, requests: AsyncIterator[Bytes], call: Any) -> Bytes:
        sizes = [len(each.raw) async for each in requests]
        return Bytes(repr(sizes).encode())

    async def collect_slowly(self, requests: AsyncIterator[Bytes], call: Any) -> Bytes:
        self.started.set()
        await self.go_on.wait()
        async for _ in requests:
            self.taken += 1
        return Bytes(b"%d" % self.taken)

    async def takes_one(self, requests: AsyncIterator[Bytes], call: Any) -> Bytes:
        async for each in requests:
            return each
        return Bytes()

    async def chat(self, requests: AsyncIterator[Bytes], call: Any) -> AsyncIterator[Bytes]:
        async for each in requests:
            yield each


class Served:
    def __init__(self, path: Path, limits: ServerLimits) -> None:
        self.path = path
        self.service = Service()
        self.server = GrpcServer(self.service.methods(), limits)

    async def connect(self, limits: Limits | None = None, credit: bool = True) -> RawClient:
        return await RawClient.connect(self.path, limits, credit)


SMALL = ServerLimits(
    http2=Limits(max_concurrent_streams=100, max_ping_strikes=100), max_message_size=100_000, max_assembling=300_000
)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path / "s", SMALL)
    await served.server.listen_unix(served.path)
    yield served
    await served.server.drain(0)
    assert served.server.statistics() == {"connections": 0, "tasks": 0, "listeners": 0}


@pytest.fixture
async def client(served: Served) -> AsyncIterator[RawClient]:
    async with await served.connect() as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    """Let everything run until ``condition`` holds."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came about")


async def settle() -> None:
    """Let everything run that can run without new input."""
    for _ in range(100):
        await asyncio.sleep(0)


# What a request must be: (fields, content, required status), or the HTTP status where it is no gRPC

ECHO = "/t.S/echo"
GOOD = frame(b"hello")
HEADS = [
    ("good", request(ECHO), GOOD, OK),
    ("content-type +proto", request(ECHO, content_type=b"application/grpc+proto"), GOOD, OK),
    ("content-type with a parameter", request(ECHO, content_type=b"application/grpc; charset=utf-8"), GOOD, OK),
    ("content-type in capitals", request(ECHO, content_type=b"Application/GRPC"), GOOD, OK),
    ("no te", [each for each in request(ECHO) if each[0] != b"te"], GOOD, OK),
    ("content-type of a web page", request(ECHO, content_type=b"text/html"), GOOD, b"415"),
    ("content-type that only begins so", request(ECHO, content_type=b"application/grpcx"), GOOD, b"415"),
    ("content-type of another codec", request(ECHO, content_type=b"application/grpc+json"), GOOD, b"415"),
    ("no content-type", [each for each in request(ECHO) if each[0] != b"content-type"], GOOD, b"415"),
    ("GET", request(ECHO, method=b"GET"), None, b"405"),
    ("unknown method", request("/t.S/nothing"), GOOD, UNIMPLEMENTED),
    ("unknown service", request("/t.X/echo"), GOOD, UNIMPLEMENTED),
    ("a path that is no method", request("*"), GOOD, UNIMPLEMENTED),
    ("a path without service", request("/echo"), GOOD, UNIMPLEMENTED),
    ("encoding gzip, message plain", request(ECHO, (b"grpc-encoding", b"gzip")), GOOD, OK),
    ("encoding identity", request(ECHO, (b"grpc-encoding", b"identity")), GOOD, OK),
    ("encoding unknown", request(ECHO, (b"grpc-encoding", b"snappy")), GOOD, UNIMPLEMENTED),
    ("timeout", request(ECHO, (b"grpc-timeout", b"1H")), GOOD, OK),
    ("timeout without unit", request(ECHO, (b"grpc-timeout", b"10")), GOOD, INTERNAL),
    ("timeout of nine digits", request(ECHO, (b"grpc-timeout", b"123456789S")), GOOD, INTERNAL),
    ("timeout below zero", request(ECHO, (b"grpc-timeout", b"-1S")), GOOD, INTERNAL),
    ("timeout without number", request(ECHO, (b"grpc-timeout", b"S")), GOOD, INTERNAL),
    ("timeout of nothing", request(ECHO, (b"grpc-timeout", b"")), GOOD, INTERNAL),
    ("binary metadata that is no base64", request(ECHO, (b"x-bin", b"a")), GOOD, INTERNAL),
    ("no message", request(ECHO), b"", UNIMPLEMENTED),
    ("no message, HEADERS alone", request(ECHO), None, UNIMPLEMENTED),
    ("two messages", request(ECHO), GOOD + GOOD, UNIMPLEMENTED),
    ("truncated prefix", request(ECHO), b"\0\0\0", INTERNAL),
    ("truncated message", request(ECHO), GOOD[:-1], INTERNAL),
    ("unknown flags", request(ECHO), b"\2" + GOOD[1:], INTERNAL),
    ("compressed without encoding", request(ECHO), b"\1" + GOOD[1:], INTERNAL),
    ("compressed badly", request(ECHO, (b"grpc-encoding", b"gzip")), b"\1" + GOOD[1:], INTERNAL),
    ("compressed, truncated", request(ECHO, (b"grpc-encoding", b"gzip")),
     PREFIX.pack(1, 15) + gzip.compress(b"x" * 50)[:15], INTERNAL),
    ("compressed", request(ECHO, (b"grpc-encoding", b"gzip")),
     PREFIX.pack(1, len(gzip.compress(b"hello", mtime=0))) + gzip.compress(b"hello", mtime=0), OK),
    ("not what the message class takes", request("/t.S/number"), GOOD, INTERNAL),
    ("not what the message class takes, inline", request("/t.S/number_inline"), GOOD, INTERNAL),
    ("what the message class takes", request("/t.S/number_inline"), frame(b"5"), OK),
    ("too large", request(ECHO), PREFIX.pack(0, 100_001), EXHAUSTED),
    ("as large as allowed", request("/t.S/collect"), frame(bytes(100_000)), OK),
    ("too large after decompression", request(ECHO, (b"grpc-encoding", b"gzip")),
     PREFIX.pack(1, len(gzip.compress(bytes(100_001), mtime=0))) + gzip.compress(bytes(100_001), mtime=0), EXHAUSTED),
    ("stream: truncated message", request("/t.S/collect"), GOOD + GOOD[:-1], INTERNAL),
    ("stream: too large", request("/t.S/collect"), GOOD + PREFIX.pack(0, 1 << 30), EXHAUSTED),
    ("stream: compressed badly", request("/t.S/collect"), GOOD + b"\1" + GOOD[1:], INTERNAL),
    ("stream: empty", request("/t.S/collect"), None, OK),
]  # fmt: skip


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row[0])
async def test_requests(client: RawClient, row: tuple[str, list, bytes | None, int | bytes]) -> None:
    _, fields, content, required = row
    answer = await client.finish(client.open(fields, content))
    if isinstance(required, bytes):
        assert answer.headers == {b":status": required}
    else:
        assert answer.headers[b":status"] == b"200"
        assert answer.headers[b"content-type"] == b"application/grpc"
        assert answer.status == required, answer.message
    assert (await client.call(ECHO, b"still here")).messages == [(0, b"still here")]


async def test_unknown_encoding_is_told_which_are_known(client: RawClient) -> None:
    answer = await client.finish(client.open(request(ECHO, (b"grpc-encoding", b"snappy")), GOOD))
    assert answer.headers[b"grpc-accept-encoding"] == b"identity,gzip"


async def test_trailers_of_a_client_end_its_side(client: RawClient) -> None:
    stream = client.open(request("/t.S/collect"), GOOD, end=False)
    client.h2.send_headers(stream, [(b"x", b"y")], True)
    client.flush()
    assert (await client.finish(stream)).messages == [(0, b"[5]")]


async def test_messages_cut_anywhere(client: RawClient) -> None:
    raw = b"".join(frame(bytes(size)) for size in (0, 1, 7, 300))
    for step in (1, 2, 3, 5, 100):
        stream = client.open(request("/t.S/collect"), None, end=False)
        for start in range(0, len(raw), step):
            client.h2.send_data(stream, raw[start : start + step])
        client.h2.send_data(stream, end_stream=True)
        client.flush()
        assert (await client.finish(stream)).messages == [(0, b"[0, 1, 7, 300]")]


# Handlers and what becomes of them


async def test_inline_and_not(client: RawClient) -> None:
    for name in ("echo", "echo_inline"):
        answer = await client.call(f"/t.S/{name}", b"text")
        assert (answer.status, answer.messages) == (OK, [(0, b"text")])


async def test_an_inline_handler_that_waits_goes_on_in_a_task(client: RawClient, served: Served) -> None:
    stream = client.open(request("/t.S/waits_inline"), GOOD)
    await served.service.started.wait()
    assert served.server.statistics()["tasks"] == 1
    served.service.go_on.set()
    assert (await client.finish(stream)).messages == [(0, b"hello/t.S/waits_inline")]


async def test_an_inline_handler_that_waits_is_cancelled(client: RawClient, served: Served) -> None:
    stream = client.open(request("/t.S/waits_inline"), GOOD)
    await served.service.started.wait()
    client.h2.reset_stream(stream, 8)
    client.flush()
    await until(lambda: not served.server.tasks)
    assert (await client.call(ECHO, b"x")).status == OK


async def test_errors_become_statuses(client: RawClient) -> None:
    answer = await client.call("/t.S/fails", "ü%".encode())
    assert (answer.status, answer.message) == (NOT_FOUND, 'content "ü%": not found')
    assert not answer.trailers, "an error before any message is a header list alone"
    assert (await client.call("/t.S/fails_inline", b"")).status == NOT_FOUND
    answer = await client.call("/t.S/fails_late", b"first")
    assert (answer.status, answer.message, answer.messages) == (11, "no more", [(0, b"first")])


async def test_defects_are_logged_and_unknown(client: RawClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = await client.call("/t.S/breaks", b"")
    assert (answer.status, answer.message) == (UNKNOWN, "a defect")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "/t.S/breaks" in record.getMessage()
    assert (await client.call("/t.S/not_a_message", b"")).status == UNKNOWN


async def test_a_handler_that_is_cancelled_by_itself_still_answers(client: RawClient) -> None:
    assert (await client.call("/t.S/cancels_itself", b"")).status == CANCELLED


async def test_reset_cancels(client: RawClient, served: Served) -> None:
    stream = client.open(request("/t.S/sleeps"), GOOD)
    await served.service.started.wait()
    client.h2.reset_stream(stream, 8)
    client.flush()
    await served.service.cancelled.wait()


async def test_loss_of_the_connection_cancels(client: RawClient, served: Served) -> None:
    client.open(request("/t.S/sleeps"), GOOD)
    await served.service.started.wait()
    client.writer.transport.abort()
    await served.service.cancelled.wait()
    assert served.server.statistics()["connections"] == 0


async def test_a_stream_that_is_over_before_it_is_looked_at(client: RawClient, served: Served) -> None:
    """Everything in one write: the stream is reset already when its request is seen."""
    for fields in (request("/t.S/nothing"), request("/t.S/echo_inline"), request("/t.S/chat"), request("/t.S/sleeps")):
        for content in (None, GOOD):
            stream = client.h2.open_stream(fields, content is None)
            if content is not None:
                client.h2.send_data(stream, content, end_stream=True)
            client.h2.reset_stream(stream, 8)
    client.flush()
    assert (await client.call(ECHO, b"x")).status == OK
    await until(lambda: not served.server.tasks)


async def test_a_broken_rule_cancels(client: RawClient, served: Served) -> None:
    client.open(request("/t.S/sleeps"), GOOD)
    await served.service.started.wait()
    client.send(data(0, b"x"))
    await served.service.cancelled.wait()
    await client.end()
    assert [event.code for event in client.goaways] == [1]


async def test_deadline_cancels_and_answers(client: RawClient, served: Served) -> None:
    answer = await client.call("/t.S/sleeps", b"", fields=((b"grpc-timeout", b"5m"),))
    assert answer.status == DEADLINE
    await served.service.cancelled.wait()
    assert served.service.call.deadline is not None
    assert served.service.call.done


async def test_deadline_while_the_request_is_incomplete(client: RawClient) -> None:
    stream = client.open(request(ECHO, (b"grpc-timeout", b"5m")), GOOD[:3], end=False)
    assert (await client.finish(stream)).status == DEADLINE
    assert client.answers[stream].ended


async def test_deadline_of_an_answer_that_nobody_reads(served: Served) -> None:
    """A status behind data that waits for the window would never arrive: the stream is reset."""
    async with await served.connect(Limits(initial_window=1000), credit=False) as client:
        stream = client.open(request("/t.S/produce", (b"grpc-timeout", b"30m")), frame(b"100000 5"))
        answer = await client.finish(stream)
        assert answer.reset == 8
        await served.service.cancelled.wait()


async def test_no_deadline_leaves_no_timer(client: RawClient, served: Served) -> None:
    answer = await client.call("/t.S/echo_inline", b"x", fields=((b"grpc-timeout", b"99999999H"),))
    assert answer.status == OK


async def test_a_handler_that_has_enough_stops_the_upload(client: RawClient) -> None:
    stream = client.open(request("/t.S/takes_one"), frame(b"first"), end=False)
    answer = await client.finish(stream)
    assert (answer.status, answer.messages) == (OK, [(0, b"first")])
    while answer.reset is None:
        await client.receive()
    assert answer.reset == 0  # NO_ERROR: RFC 9113, section 8.1


async def test_metadata(client: RawClient) -> None:
    fields = (
        (b"text", b"a"),
        (b"text", b"b"),
        (b"raw-bin", b"q6ur"),
        (b"padded-bin", b"AA=="),
        (b"unpadded-bin", b"AA"),
        (b"joined-bin", b"AA,AQ"),
        (b"user-agent", b"test"),
        (b"empty", b""),
    )
    answer = await client.call("/t.S/metadata", b"", fields=fields)
    expected = {
        "text": "a",
        "raw-bin": b"\xab\xab\xab",
        "padded-bin": b"\0",
        "unpadded-bin": b"\0",
        "joined-bin": b"\0",
        "user-agent": "test",
        "empty": "",
    }
    assert answer.messages == [(0, repr(sorted(expected.items())).encode())]
    assert answer.trailers[b"seen-raw-bin"] == b"q6ur"
    assert answer.trailers[b"seen-text"] == b"a"


async def test_metadata_that_cannot_be_sent(client: RawClient) -> None:
    assert (await client.call("/t.S/bad_metadata", b"fine")).trailers[b"key"] == b"fine"
    answer = await client.call("/t.S/bad_metadata", b"a\nb")
    assert answer.status == INVALID
    assert "'key'" in answer.message


@pytest.mark.parametrize(("name", "count"), [("packs", 1), ("packs_stream", 2)])
async def test_answers_are_compressed_where_the_client_takes_it(client: RawClient, name: str, count: int) -> None:
    accepts = ((b"grpc-accept-encoding", b"identity, deflate, gzip"),)
    answer = await client.call(f"/t.S/{name}", b"x" * 1000, fields=accepts)
    assert answer.headers[b"grpc-encoding"] == b"gzip"
    assert [(flag, gzip.decompress(raw)) for flag, raw in answer.messages] == [(1, b"x" * 1000)] * count
    answer = await client.call(f"/t.S/{name}", b"x" * 1000)
    assert b"grpc-encoding" not in answer.headers
    assert answer.messages == [(0, b"x" * 1000)] * count


async def test_headers_come_before_the_first_message(client: RawClient) -> None:
    answer = await client.call("/t.S/late_header", b"x")
    assert answer.headers[b"early"] == b"1"
    assert answer.messages == [(0, b"x")]
    assert (answer.status, answer.message) == (9, "metadata 'late': the head of the answer has been sent")


# Flow control


async def test_a_stream_that_never_waits_lets_others_run(served: Served, client: RawClient) -> None:
    """A reader as fast as the writer: neither windows nor the socket ever suspend the handler."""
    async with await served.connect(Limits(initial_window=1 << 30, connection_window=1 << 30)) as greedy:
        stream = greedy.open(request("/t.S/produce"), frame(b"1000 20000"))
        reading = asyncio.create_task(greedy.finish(stream))
        await until(lambda: served.service.produced)
        assert (await client.call(ECHO, b"x")).status == OK
        assert served.service.produced < 20000
        await reading


async def test_a_slow_reader_suspends_the_handler(served: Served) -> None:
    """Windows of 64 kB: the handler makes what fits and one more, and goes on when credit comes."""
    async with await served.connect(Limits(initial_window=65535, connection_window=65535), credit=False) as client:
        stream = client.open(request("/t.S/produce"), frame(b"10000 100"))
        while len(client.answers[stream].content) < 65535:
            await client.receive()
        await settle()
        assert served.service.produced == 7
        client.credit = True
        client.h2.acknowledge(stream, 65535)
        client.flush()
        answer = await client.finish(stream)
        assert [int.from_bytes(raw[:4], "big") for _, raw in answer.messages] == list(range(100))


@pytest.mark.parametrize("name", ["produce", "produce_framed"])
async def test_a_reader_that_leaves_its_socket_full_suspends_the_handler(served: Served, name: str) -> None:
    async with await served.connect(Limits(initial_window=1 << 30, connection_window=1 << 30)) as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        stream = client.open(request(f"/t.S/{name}"), frame(b"65536 200"))
        await until(lambda: served.service.produced)
        await settle()
        most = (SMALL.write_high + (2 << 20)) // 65536
        assert served.service.produced < most
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        answer = await client.finish(stream)
        assert [int.from_bytes(raw[:4], "big") for _, raw in answer.messages] == list(range(200))


async def test_cancellation_of_a_suspended_handler_closes_its_generator(served: Served) -> None:
    async with await served.connect(Limits(initial_window=1000), credit=False) as client:
        stream = client.open(request("/t.S/produce"), frame(b"100000 5"))
        await until(lambda: served.service.produced)
        client.h2.reset_stream(stream, 8)
        client.flush()
        await served.service.cancelled.wait()


async def test_a_slow_handler_stops_its_client(tmp_path: Path) -> None:
    """What is taken from the wire and not yet by the handler stays within the stream's window."""
    limits = ServerLimits(http2=Limits(initial_window=100_000))
    served = Served(tmp_path / "s", limits)
    await served.server.listen_unix(served.path)
    async with await served.connect() as client:
        stream = client.open(request("/t.S/collect_slowly"), None, end=False)
        await served.service.started.wait()
        client.h2.send_data(stream, frame(bytes(995)) * 1000, end_stream=True)
        client.flush()
        await settle()
        (connection,) = served.server._connections
        call = connection._calls[stream]
        await until(lambda: call.messages and len(call.messages) == 100)
        await settle()
        assert client.h2.waiting(stream) == 900_000
        served.service.go_on.set()
        assert (await client.finish(stream)).messages == [(0, b"1000")]
    await served.server.drain(0)


async def test_a_message_larger_than_the_window(tmp_path: Path) -> None:
    """A unary request must be whole before it is used: its parts are acknowledged as they come."""
    served = Served(tmp_path / "s", ServerLimits(http2=Limits(initial_window=70_000, connection_window=70_000)))
    await served.server.listen_unix(served.path)
    async with await served.connect() as client:
        answer = await client.call(ECHO, bytes(1 << 20))
        assert answer.messages == [(0, bytes(1 << 20))]
        assert (await client.call("/t.S/chat", bytes(1 << 20), b"x")).messages == [(0, bytes(1 << 20)), (0, b"x")]
    await served.server.drain(0)


async def test_incomplete_messages_are_limited_per_connection(client: RawClient) -> None:
    streams = [client.open(request(ECHO), PREFIX.pack(0, 90_000) + bytes(80_000), end=False) for _ in range(5)]
    for stream in streams[3:]:
        assert (await client.finish(stream)).status == EXHAUSTED
    for stream in streams[:3]:
        client.h2.send_data(stream, bytes(10_000), end_stream=True)
    client.flush()
    for stream in streams[:3]:
        assert (await client.finish(stream)).status == OK


async def test_answers_that_nobody_reads_are_limited(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", ServerLimits(max_unsent=100_000))
    await served.server.listen_unix(served.path)
    async with await served.connect(Limits(initial_window=10), credit=False) as client:
        streams = [client.open(request("/t.S/echo_inline"), frame(bytes(30_000))) for _ in range(10)]
        statuses = [(await client.finish(stream)).status for stream in streams[4:]]
        assert statuses == [EXHAUSTED] * 6
    await served.server.drain(0)


async def test_a_client_that_reads_nothing_is_not_read_either(tmp_path: Path) -> None:
    """Small requests, large answers, and a full socket: memory ends at ``max_backlog``."""
    served = Served(tmp_path / "s", ServerLimits(max_backlog=100_000, max_message_size=100_000))
    await served.server.listen_unix(served.path)
    async with await served.connect(Limits(initial_window=1 << 30, connection_window=1 << 30)) as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(400):
            client.open(request("/t.S/echo_inline"), frame(bytes(50_000)))
        await settle()
        (connection,) = served.server._connections
        assert connection._link.backlog < 1_000_000
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for stream in list(client.answers):
            assert (await client.finish(stream)).status == OK
    await served.server.drain(0)


# Floods do not touch the others


def flood_of_resets(count: int) -> bytes:
    block = headers(1)[9:]
    return b"".join(headers(stream, block) + rst(stream) for stream in range(1, 2 * count, 2))


FLOODS = {
    "rapid reset": flood_of_resets(3000),
    "ping": http2_frame(PING, 0, 0, bytes(8)) * 3000,
    "settings": http2_frame(4) * 3000,
    "empty data": headers(1) + data(1) * 3000,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_only_its_own_connection(served: Served, client: RawClient, name: str) -> None:
    assert (await client.call(ECHO, b"before")).status == OK
    async with await served.connect() as attacker:
        attacker.send(FLOODS[name])
        last = frames(await attacker.reader.read())[-1]
        assert (last.kind, last.payload[4:8]) == (GOAWAY, b"\0\0\0\x0b")
    assert (await client.call(ECHO, b"after")).status == OK
    assert served.server.statistics()["connections"] == 1
    await until(lambda: not served.server.tasks)


async def test_too_many_streams_are_refused(served: Served, client: RawClient) -> None:
    for _ in range(100):
        client.open(request("/t.S/sleeps"), GOOD)
    client.h2.peer.max_concurrent_streams = 1000
    extra = client.open(request(ECHO), GOOD)
    assert (await client.finish(extra)).reset == 7
    async with await served.connect() as other:
        assert (await other.call(ECHO, b"x")).status == OK


async def test_too_many_connections(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", ServerLimits(max_connections=2))
    await served.server.listen_unix(served.path)
    async with await served.connect() as one, await served.connect() as two:
        assert (await one.call(ECHO, b"x")).status == (await two.call(ECHO, b"x")).status == OK
        async with await served.connect() as three:
            await three.end()
        assert (await one.call(ECHO, b"x")).status == OK
    await served.server.drain(0)


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    served = Served(tmp_path / "s", ServerLimits(handshake_timeout=0.02))
    await served.server.listen_unix(served.path)
    reader, writer = await asyncio.open_unix_connection(served.path)
    await reader.read()  # until the end
    writer.close()
    assert served.server.statistics()["connections"] == 0
    await served.server.drain(0)


async def test_running_out_of_descriptors_is_survived(served: Served, client: RawClient) -> None:
    assert (await client.call(ECHO, b"x")).status == OK
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    filler: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                filler.append(os.dup(0))
        for sock in waiting:
            sock.setblocking(False)
            sock.connect(str(served.path))
        await settle()
        assert (await client.call(ECHO, b"x")).status == OK
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
        for sock in waiting:
            sock.close()
    async with await served.connect() as other:
        assert (await other.call(ECHO, b"x")).status == OK


# The beginning and the end


async def test_permissions_of_the_socket(tmp_path: Path) -> None:
    server = GrpcServer([])
    await server.listen_unix(tmp_path / "a")
    await server.listen_unix(tmp_path / "b", 0o600)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    server.close()
    assert not os.listdir(tmp_path)


async def test_a_socket_whose_owner_accepts_nobody_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        first.connect(str(tmp_path / "s"))
        with pytest.raises(errors.AlreadyExists, match="another process serves it"):
            await GrpcServer([]).listen_unix(tmp_path / "s")


async def test_a_dead_socket_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    one = GrpcServer([])
    await one.listen_unix(path)
    two = GrpcServer([])
    with pytest.raises(errors.AlreadyExists, match="another process serves it"):
        await two.listen_unix(path)
    path.unlink()
    await two.listen_unix(path)
    one.close()
    assert path.exists(), "the file is that of the successor"
    two.close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(errors.AlreadyExists, match="not a socket"):
        await two.listen_unix(path)
    with pytest.raises(errors.NotFound, match="listen on"):
        await two.listen_unix(tmp_path / "nowhere" / "s")


async def test_a_socket_that_listens_already() -> None:
    service = Service()
    server = GrpcServer(service.methods())
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    async with RawClient(reader, writer, Limits(), True) as client:
        assert (await client.call(ECHO, b"x")).status == OK
    await server.drain(0)
    assert listener.fileno() == -1


async def test_drain_lets_calls_finish(served: Served, client: RawClient) -> None:
    stream = client.open(request("/t.S/sleeps"), GOOD)
    await served.service.started.wait()
    ending = asyncio.create_task(served.server.drain(60))
    while len(client.goaways) < 2:
        await client.receive()
    assert [event.last_stream_id for event in client.goaways] == [0x7FFFFFFF, stream]
    assert not served.path.exists()
    assert not ending.done()
    served.service.go_on.set()
    answer = await client.finish(stream)
    assert (answer.status, answer.messages) == (OK, [(0, b"hello")])
    await client.end()
    await ending


async def test_drain_does_not_wait_for_endless_calls(served: Served, client: RawClient) -> None:
    stream = client.open(request("/t.S/waits_for_ever"), GOOD)
    await served.service.started.wait()
    ending = asyncio.create_task(served.server.drain(60))
    assert (await client.finish(stream)).status == 14
    await client.end()
    await ending
    assert served.service.cancelled.is_set()


async def test_drain_of_idle_connections_is_quick(served: Served, client: RawClient) -> None:
    assert (await client.call(ECHO, b"x")).status == OK
    ending = asyncio.create_task(served.server.drain(60))
    await client.end()
    await ending


async def test_drain_cancels_what_takes_too_long(served: Served, client: RawClient) -> None:
    client.open(request("/t.S/sleeps"), GOOD)
    await served.service.started.wait()
    await served.server.drain(0.01)
    assert served.service.cancelled.is_set()
    await client.end()


async def test_close_cancels(served: Served, client: RawClient) -> None:
    client.open(request("/t.S/sleeps"), GOOD)
    await served.service.started.wait()
    served.server.close()
    await served.service.cancelled.wait()
    await client.end()
    assert [event.code for event in client.goaways] == [0]


async def test_many_calls_at_once(served: Served) -> None:
    async def some(client: RawClient, name: str) -> list[Answer]:
        streams = [client.open(request(f"/t.S/{name}"), frame(b"%d" % number)) for number in range(50)]
        return [await client.finish(stream) for stream in streams]

    clients = [await served.connect() for _ in range(8)]
    names = ["echo", "echo_inline"] * 4
    for answers in await asyncio.gather(*map(some, clients, names)):
        assert [each.messages for each in answers] == [[(0, b"%d" % number)] for number in range(50)]
    for client in clients:
        client.writer.close()


async def test_a_client_that_is_gone_when_it_is_accepted_is_forgotten(served: Served) -> None:
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(served.path))  # and closed before the loop sees it
    async with await served.connect() as later:
        assert (await later.call(ECHO, b"x")).status == OK
        assert served.server.statistics()["connections"] == 1
