"""A client that sends exactly what it is told, for what well-behaved clients never do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portside.wire.grpc.protocol import MessageReader, decode_message, frame
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


class Bytes:
    """A message that is just its bytes."""

    def __init__(self, raw: bytes = b"") -> None:
        self.raw = raw

    @classmethod
    def FromString(cls, raw: bytes) -> Bytes:
        return cls(bytes(raw))

    def SerializeToString(self) -> bytes:
        return self.raw


def request(path: str, *fields: tuple[bytes, bytes], **replaced: bytes) -> list[tuple[bytes, bytes]]:
    """Fields of a good request for ``path``, some of them replaced (``content_type=b"…"``)."""
    good = {b":method": b"POST", b":scheme": b"http", b":path": path.encode(), b":authority": b"localhost",
            b"content-type": b"application/grpc", b"te": b"trailers"}  # fmt: skip
    for name, value in replaced.items():
        key = name.replace("_", "-").encode()
        good[key if key in good else b":" + key] = value
    return [*good.items(), *fields]


@dataclass
class Answer:
    """All that came on one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> int | None:
        raw = self.trailers.get(b"grpc-status", self.headers.get(b"grpc-status"))
        return None if raw is None else int(raw)

    @property
    def message(self) -> str:
        return decode_message(self.trailers.get(b"grpc-message", self.headers.get(b"grpc-message", b"")))

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        return MessageReader().feed(bytes(self.content))


class RawClient:
    """One connection. ``acknowledge=False`` never gives the server credit for what it sends."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits, credit: bool
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = H2Connection(True, limits)
        self.credit = credit
        self.answers: dict[int, Answer] = {}
        self.goaways: list[GoAwayReceived] = []
        self.pongs = 0
        self.closed = False
        self.flush()

    @classmethod
    async def connect(cls, path: Path, limits: Limits | None = None, credit: bool = True) -> RawClient:
        client = cls(*await asyncio.open_unix_connection(path), limits or Limits(), credit)
        await client.receive()  # the server's SETTINGS and window
        return client

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    def open(self, fields: list[tuple[bytes, bytes]], content: bytes | None = b"", end: bool = True) -> int:
        """Send a request; content None sends HEADERS alone."""
        stream = self.h2.open_stream(fields, end and content is None)
        if content is not None:
            self.h2.send_data(stream, content, end_stream=end)
        self.flush()
        self.answers[stream] = Answer()
        return stream

    async def receive(self) -> list[Event]:
        """Read once; events are recorded in ``answers`` and returned."""
        try:
            raw = await self.reader.read(1 << 20)
        except ConnectionError:
            raw = b""
        if not raw:
            self.closed = True
            self.writer.close()
            return []
        events = self.h2.receive_data(raw)
        for event in events:
            self._record(event)
        self.flush()
        return events

    def _record(self, event: Any) -> None:
        answer = self.answers[event.stream_id] if event.stream_id else Answer()
        match event:
            case HeadersReceived():
                target = answer.trailers if event.trailers else answer.headers
                target.update(event.headers.fields)
                answer.ended |= event.end_stream
            case DataReceived():
                answer.content += event.data
                answer.ended |= event.end_stream
                if self.credit:
                    self.h2.acknowledge(event.stream_id, event.size)
            case StreamReset():
                answer.reset = event.code
            case GoAwayReceived():
                self.goaways.append(event)
            case PingAcknowledged():
                self.pongs += 1
            case ConnectionFailed():
                raise event.error

    async def finish(self, stream: int) -> Answer:
        """Read until the stream is over; the answer so far if the connection ends."""
        answer = self.answers[stream]
        while not (answer.ended or answer.reset is not None or self.closed):
            await self.receive()
        return answer

    async def call(self, path: str, *messages: bytes, fields: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
        """A whole call."""
        stream = self.open(request(path, *fields), b"".join(map(frame, messages)))
        return await self.finish(stream)

    async def end(self) -> None:
        """Read until the server closes."""
        while not self.closed:
            await self.receive()
