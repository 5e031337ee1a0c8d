"""One call of the asyncio client: its state, its messages, its end. Connections and retries are in ``client.py``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from portside.errors import Cancelled, DeadlineExceeded, Internal, PortsideError, Unavailable, Unimplemented, Unknown
from portside.wire.grpc.protocol import (
    PREFIX,
    MessageReader,
    decode_message,
    decode_metadata,
    decompress,
    error_of_http,
    error_of_reset,
)
from portside.wire.http2.connection import H2Connection
from portside.wire.http2.errors import CANCEL, NO_ERROR, REFUSED_STREAM
from portside.wire.http2.events import DataReceived, HeadersReceived, StreamReset
from portside.wire.http2.hpack import Headers
from portside.wire.status import error_of

T = TypeVar("T")

INBOX = 1 << 20
"""Bytes of messages that wait for their reader before the server gets no more credit for this call."""


class Link(Protocol):
    """The connection that a call is on."""

    http2: H2Connection
    calls: dict[int, Call[Any]]

    def flush(self) -> None:
        """Write what the state machine has queued."""
        ...

    def ended(self, stream_id: int) -> None:
        """The call needs its stream no more."""
        ...

    async def writable(self) -> None:
        """Return when the socket takes more."""
        ...


class Connector(Protocol):
    """Where a call gets its connection."""

    def ready(self) -> Link | None:
        """A connection on which a stream can be opened this instant, if there is one."""
        ...

    async def connect(self) -> None:
        """Return when it may be worth to ask ``ready`` again; raises errors of ours."""
        ...


class Call(Generic[T]):
    """A call in progress: ``send``, ``done_writing`` and ``recv`` as the method's kind allows.

    Whoever makes it reads it to its end, or cancels it; ``async with`` does that. ``headers`` and ``trailers`` are the
    server's metadata, as pairs, once they are there. Errors of the call come out of ``recv`` (or iteration), and of
    ``send`` where the call is over by then.
    """

    def __init__(
        self,
        connector: Connector,
        head: bytes,
        name: str,
        parse: Callable[[bytes], T],
        deadline: float | None,
        limit: int,
        whole: bool = False,
    ) -> None:
        self._connector = connector
        self._head = head
        self._name = name
        self._parse = parse
        self._deadline = deadline
        self._whole = whole  # unary: nothing is told before the end
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._id = 0
        self._reader = MessageReader(limit)
        self._inbox: deque[bytes] = deque()
        self._held = 0  # bytes in the inbox
        self._unacknowledged = 0
        self._wrote_all = False
        self._status_seen = False
        self._gzip = False
        self._head_seen: Headers | None = None
        self._trailers: Headers | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening = asyncio.Lock()
        self.done = False
        self.error: PortsideError | None = None
        self.refused = False
        """Whether the server has said that it did not begin with this call: it may be sent again."""

    # For its user

    async def send(self, message: Any) -> None:
        """Send one message; waits while the server, or the socket, takes no more.

        The error of the call if it has failed by now. If the server has ended it well, the message is dropped.
        """
        await self._write((message if isinstance(message, bytes) else message.SerializeToString(),), False)

    async def send_buffers(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        """The same for a message that is serialized already, in pieces, which are not copied."""
        await self._write(buffers, False)

    async def done_writing(self) -> None:
        """Tell the server that no message follows; a second time does nothing."""
        if self._wrote_all:
            return
        await self._open(None)
        if not self._over() and not self._wrote_all:
            self._wrote_all = True
            assert self._link is not None
            self._link.http2.send_data(self._id, end_stream=True)
            self._link.flush()

    async def recv(self) -> T | None:
        """The next message; None at the end of a call that went well, else its error."""
        await self._open(None)
        while not self._inbox:
            if self.done:
                if self.error is not None:
                    raise self.error
                return None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._inbox.popleft()
        self._held -= len(message)
        self._acknowledge()
        return self._parse(message)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Messages to the end."""
        while (message := await self.recv()) is not None:
            yield message

    def cancel(self) -> None:
        """Give the call up; the server is told. A call that is over is left as it is."""
        self._end(Cancelled(f"{self._name}: cancelled by the caller"), CANCEL)

    async def __aenter__(self) -> Call[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def headers(self) -> list[tuple[str, str | bytes]]:
        """Initial metadata; empty before it has come, and of a server that only sent trailers."""
        if self._head_seen is None or self._head_seen is self._trailers:
            return []
        return decode_metadata(self._head_seen.fields)

    @property
    def trailers(self) -> list[tuple[str, str | bytes]]:
        """Trailing metadata, once the call is over."""
        return [] if self._trailers is None else decode_metadata(self._trailers.fields)

    async def unary(self, request: bytes) -> T:
        """Send the one request and wait for the one answer."""
        await self._open((request,))
        if not self.done:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self.error is not None:
            raise self.error
        if len(self._inbox) != 1:
            raise Internal(f"{self._name}: {len(self._inbox)} messages in the answer to a unary call")
        return self._parse(self._inbox.popleft())

    async def begin(self, request: bytes) -> None:
        """Send the one request of a call whose answer is streamed."""
        await self._open((request,))

    # Sending

    async def _open(self, only: Sequence[bytes] | None) -> None:
        """Connect and send the head, once; with ``only`` the one message of the call as well."""
        if self._link is not None or self.done:
            return
        async with self._opening:
            if self._link is not None or self._over():
                return
            if self._deadline is not None:
                if self._deadline <= self._loop.time():
                    self._expire()
                    return
                self._timer = self._loop.call_at(self._deadline, self._expire)
            while (link := self._connector.ready()) is None:
                try:
                    await self._unless_over(self._connector.connect())
                except PortsideError as error:
                    self._end(error, None)
                if self._over():
                    return
            self._id = link.http2.open_stream(self._head)
            self._link = link
            link.calls[self._id] = self
            if only is not None:
                self._wrote_all = True
                size = sum(map(len, only))
                link.http2.send_data(self._id, PREFIX.pack(0, size), *only, end_stream=True)
            link.flush()

    async def _unless_over(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for ``work``; it is cancelled when the call ends before."""
        task = asyncio.ensure_future(work)
        self._waiter = self._loop.create_future()
        waiting: list[asyncio.Future[None]] = [task, self._waiter]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            self._waiter = None
            task.cancel()

    async def _write(self, buffers: Sequence[bytes | bytearray | memoryview], last: bool) -> None:
        await self._open(None)
        if not self.done:
            assert self._link is not None
            await self._link.writable()
        if self._over():
            if self.error is not None:
                raise self.error
            return
        assert self._link is not None
        sent = self._link.http2.send_data(self._id, PREFIX.pack(0, sum(map(len, buffers))), *buffers, end_stream=last)
        self._link.flush()
        if not sent:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
            if self.error is not None:
                raise self.error

    # What the connection tells

    def on_headers(self, event: HeadersReceived) -> None:
        """Head or trailers."""
        headers = event.headers
        if self._head_seen is None and not event.trailers:
            if headers.fields[0][1][:1] == b"1":
                return
            self._head_seen = headers
            fault = _fault_of_head(headers)
            if fault is not None:
                self._end(fault, CANCEL)
                return
            self._gzip = headers.get(b"grpc-encoding") == b"gzip"
        if event.end_stream:
            self._trailers = headers
            self._finish(_error_of_trailers(headers))

    def on_data(self, event: DataReceived) -> None:
        """Content: cut into messages; credit is given at once while the reader keeps up."""
        assert self._link is not None
        try:
            messages = self._reader.feed(event.data)
            for flag, message in messages:
                if flag:
                    if not self._gzip:
                        raise Internal(f"{self._name}: a compressed message without a grpc-encoding that we know")
                    message = decompress(message, self._reader.limit)
                self._inbox.append(message)
                self._held += len(message)
        except PortsideError as error:
            self._end(error, CANCEL)
            return
        self._unacknowledged += event.size
        self._acknowledge()
        if event.end_stream:
            self._finish(Internal(f"{self._name}: the answer ended without a status"))
        elif messages and not self._whole:
            self._wake()

    def on_reset(self, event: StreamReset) -> None:
        """The stream is over; the server's RST_STREAM, or ours because it broke a rule."""
        if event.by_peer:
            self.refused = event.code == REFUSED_STREAM and self._head_seen is None
            error = error_of_reset(event.code)
        else:
            error = Internal(f"{self._name}: {event.reason}")
        self._end(error, None)

    def on_writable(self) -> None:
        """What waited for the server's window has gone."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def on_lost(self, error: PortsideError) -> None:
        """The connection is gone."""
        self._end(error, None)

    # The end

    def _over(self) -> bool:
        return self.done

    def _acknowledge(self) -> None:
        """Give credit for what was received, unless too much waits for the reader."""
        if self._unacknowledged and self._held < INBOX and self._link is not None:
            self._link.http2.acknowledge(self._id, self._unacknowledged)
            self._unacknowledged = 0
            self._link.flush()

    def _expire(self) -> None:
        self._end(DeadlineExceeded(f"{self._name}: not done in the time allowed"), CANCEL)

    def _finish(self, error: PortsideError | None) -> None:
        """The server has ended the call."""
        if error is None and self._reader.held:
            error = Internal(f"{self._name}: the answer ended in the middle of a message")
        assert self._link is not None
        all_sent = self._wrote_all and not self._link.http2.waiting(self._id)
        self._end(error, None if all_sent else NO_ERROR)

    def _end(self, error: PortsideError | None, reset: int | None) -> None:
        """The first end counts; ``reset`` is the code by which the server is told, if it must be."""
        if self.done:
            return
        self.done = True
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            if reset is not None:
                self._link.http2.reset_stream(self._id, reset)
            self._link.ended(self._id)
            self._link.flush()
        self.on_writable()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _fault_of_head(headers: Headers) -> PortsideError | None:
    """What is wrong with the first header list of an answer, trailers-only ones included."""
    status = headers.fields[0][1]
    if headers.get(b"grpc-status") is not None:
        return None
    if status != b"200":
        return error_of_http(status)
    kind = headers.get(b"content-type") or b""
    if not kind.startswith(b"application/grpc"):
        return Unknown(f"the answer is not gRPC: its content-type is {kind.decode('latin-1')!r}")
    encoding = headers.get(b"grpc-encoding")
    if encoding not in (None, b"identity", b"gzip"):
        return Unimplemented(f"the answer is compressed by {encoding.decode('latin-1') if encoding else ''!r}")
    return None


def _error_of_trailers(headers: Headers) -> PortsideError | None:
    """What the trailers say; remembered in them, since good ones are always the same."""
    if headers.memo is True:
        return None
    code = headers.get(b"grpc-status") or b""
    if not code.isdigit() or len(code) > 9:
        return Unknown("the answer ended without a status")
    if int(code) == 0:
        headers.memo = True
        return None
    return error_of(int(code), decode_message(headers.get(b"grpc-message") or b""))


def lost(address: str, reason: object) -> Unavailable:
    """The error of calls whose connection is gone."""
    return Unavailable(f"connection to {address} is lost" + (f": {reason}" if reason else ""))
