"""gRPC for asyncio: a channel to one server, over a unix socket or TCP, with any number of calls at once.

What does not belong here: the state of one call (``client_call.py``), HTTP/2 (``wire/http2``), what services there
are (``remote/``). Source: "gRPC over HTTP/2"; retries as in "gRPC retry design", transparent retries only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar, cast

from portside.errors import InvalidArgument, Unavailable, from_oserror
from portside.wire.grpc.client_call import Call, lost
from portside.wire.grpc.protocol import (
    ACCEPT_ENCODING,
    CONTENT_TYPE,
    MAX_MESSAGE_SIZE,
    encode_metadata,
    encode_timeout,
)
from portside.wire.http2.connection import H2Connection
from portside.wire.http2.events import (
    ConnectionFailed,
    DataReceived,
    GoAwayReceived,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    StreamWritable,
)
from portside.wire.http2.hpack import encode
from portside.wire.http2.limits import BURSTS, Limits

T = TypeVar("T")

PAUSES = (0.0, 0.005, 0.02, 0.1, 0.5)
"""Seconds before each further attempt of a call that the server did not begin with; then its error is the caller's."""
CONNECT_TIMEOUT = 20.0
"""Seconds until a connection must stand, for calls without an earlier deadline."""
KEEPALIVE_TIMEOUT = 20.0
"""Seconds that a server may take to answer a PING."""

_AUTHORITY = b"localhost"
_LIMITS = Limits(bursts={**BURSTS, "ping": (100_000, 100_000.0)})
"""Go servers send a PING with nearly every answer, to learn how much the network holds."""
_MAX_HEADS = 256
_PING = b"portside"


class Channel:
    """Calls to one server. It connects with the first call and again whenever the connection is gone.

    ``address`` is a path, ``unix://path``, ``host:port`` or ``tcp://host:port``. ``keepalive`` is the number of
    seconds without a word from the server, while calls are open, after which it is asked by a PING whether it is
    still there. Messages are protobuf messages or bytes; a ``response_class`` of None gives bytes. Whoever makes a
    channel closes it.
    """

    def __init__(
        self, address: str, *, max_message: int = MAX_MESSAGE_SIZE, keepalive: float | None = None,
        user_agent: str = "portside",
    ) -> None:  # fmt: skip
        self.address = address
        self._target = _parse(address)
        self._max_message = max_message
        self._keepalive = keepalive
        self._agent = (b"user-agent", user_agent.encode())
        self._heads: dict[str, bytes] = {}
        self._link: _Link | None = None
        self._links: set[_Link] = set()
        self._connecting = asyncio.Lock()
        self._closed = False

    async def unary(
        self, path: str, request: Any, response_class: type[T] | None, *,
        metadata: Iterable[tuple[str, str | bytes]] = (), timeout: float | None = None,
    ) -> T:  # fmt: skip
        """The answer of ``/package.Service/Method``, or the error that the server answered with.

        ``timeout`` seconds are told to the server and kept here (DeadlineExceeded). Unavailable if nobody listens or
        the connection breaks. Cancelling the caller cancels the call.
        """
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        metadata = tuple(metadata)
        deadline = _deadline(timeout)
        pauses = iter(PAUSES)
        while True:
            call: Call[T] = self._call(path, response_class, metadata, deadline, whole=True)
            try:
                return await call.unary(payload)
            except Unavailable:
                pause = next(pauses, None)
                if not call.refused or pause is None:
                    raise
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    async def server_stream(
        self, path: str, request: Any, response_class: type[T] | None, *,
        metadata: Iterable[tuple[str, str | bytes]] = (), timeout: float | None = None,
    ) -> AsyncIterator[T]:  # fmt: skip
        """The streamed answers, as fast as they are read. Closing the iterator early cancels the call."""
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        metadata = tuple(metadata)
        deadline = _deadline(timeout)
        pauses = iter(PAUSES)
        while True:
            call: Call[T] = self._call(path, response_class, metadata, deadline)
            try:
                await call.begin(payload)
                while (message := await call.recv()) is not None:
                    yield message
                return
            except Unavailable:
                pause = next(pauses, None)
                if not call.refused or pause is None:
                    raise
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    def stream(
        self, path: str, response_class: type[T] | None, *,
        metadata: Iterable[tuple[str, str | bytes]] = (), timeout: float | None = None,
    ) -> Call[T]:  # fmt: skip
        """A call with messages both ways, or from us only. Use it as ``async with``; it begins with the first await."""
        return self._call(path, response_class, tuple(metadata), _deadline(timeout))

    async def close(self) -> None:
        """Drop the connection; calls in progress fail with Unavailable. A second time does nothing."""
        self._closed = True
        for link in list(self._links):
            link.close()
        for link in list(self._links):
            await link.gone.wait()

    def _call(
        self, path: str, response_class: type[T] | None, metadata: tuple[tuple[str, str | bytes], ...],
        deadline: float | None, whole: bool = False,
    ) -> Call[T]:  # fmt: skip
        parse: Any = bytes if response_class is None else response_class.FromString  # type: ignore[attr-defined]
        head = self._heads.get(path)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            head = self._heads[path] = self._head(path)
        if deadline is not None:
            left = deadline - asyncio.get_running_loop().time()
            head += encode([(b"grpc-timeout", encode_timeout(left))])
        if metadata:
            head += encode(encode_metadata(metadata))
        return Call(self, head, path[1:], parse, deadline, self._max_message, whole)

    def _head(self, path: str) -> bytes:
        if path[:1] != "/" or not path.isascii() or not path.isprintable():
            raise InvalidArgument(f"method {path[:200]!r}: want /package.Service/Method")
        return encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", _AUTHORITY),
                (b"te", b"trailers"),
                (b"content-type", CONTENT_TYPE),
                ACCEPT_ENCODING,
                self._agent,
            ]
        )

    # For calls

    def ready(self) -> _Link | None:
        """The connection, if a stream can be opened on it this instant."""
        link = self._link
        return link if link is not None and link.usable and link.http2.can_open_stream else None

    async def connect(self) -> None:
        """Return when it may be worth to ask ``ready`` again; Unavailable if no connection can be made."""
        link = self._link
        if link is not None and link.usable:
            if not link.http2.can_open_stream:  # things may have changed since ``ready`` was asked
                await link.room()
            return
        async with self._connecting:
            if self._link is None or not self._link.usable:
                self._link = link = await self._dial()
                if self._closed:  # meanwhile; the next attempt says so
                    link.close()

    async def _dial(self) -> _Link:
        if self._closed:
            raise Unavailable(f"the channel to {self.address} is closed")
        loop = asyncio.get_running_loop()
        link = _Link(self)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if isinstance(self._target, str):
                    await loop.create_unix_connection(lambda: link, self._target)
                else:
                    await loop.create_connection(lambda: link, *self._target)
        except TimeoutError:
            raise Unavailable(f"connect to {self.address}: nobody accepts in time") from None
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Unavailable(f"connect to {self.address}: {error.strerror}: nobody serves there") from error
        except OSError as error:
            raise from_oserror(error, f"connect to {self.address}") from error
        return link

    @property
    def keepalive(self) -> float | None:
        """As given."""
        return self._keepalive

    def joined(self, link: _Link) -> None:
        """A connection stands."""
        self._links.add(link)

    def left(self, link: _Link) -> None:
        """A connection is gone."""
        self._links.discard(link)
        if self._link is link:
            self._link = None


class _Link(asyncio.Protocol):
    """One connection: moves bytes, and tells each call what concerns it."""

    def __init__(self, channel: Channel) -> None:
        self.http2 = H2Connection(client=True, limits=_LIMITS)
        self.calls: dict[int, Call[Any]] = {}
        self.gone = asyncio.Event()
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._paused: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._receiving = False
        self._heard = 0.0
        self._reason = ""
        self._failed = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether new calls may come here, now or once others have ended."""
        return self._transport is not None and not self._transport.is_closing() and not self.http2.going_away

    async def room(self) -> None:
        """Return when a call has ended, or the server's settings have changed, or the connection is of no use."""
        self._room = self._room or self._loop.create_future()
        await asyncio.shield(self._room)

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    async def writable(self) -> None:
        """Return when the socket takes more."""
        while self._paused is not None:
            await asyncio.shield(self._paused)

    def flush(self) -> None:
        """Write what is queued; while events are being told, at their end."""
        if self._receiving or self._transport is None or self._transport.is_closing():
            return
        data = self.http2.data_to_send()
        if data:
            self._transport.write(data)

    def ended(self, stream_id: int) -> None:
        """The call needs its stream no more."""
        self.calls.pop(stream_id, None)
        self._wake()
        if not self.calls and self.http2.going_away:
            self.close()

    def close(self) -> None:
        """Say goodbye and close."""
        if self._transport is not None and not self._transport.is_closing():
            self.http2.close()
            self._reason = self._reason or "closed"
            self._transport.write(self.http2.data_to_send())
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # the server does not read: it needs no goodbye
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send preface and settings."""
        self._transport = cast(asyncio.Transport, transport)  # which uvloop's is no subclass of
        self._channel.joined(self)
        self.flush()
        if self._channel.keepalive is not None:
            self._heard = self._loop.time()
            self._alarm = self._loop.call_later(self._channel.keepalive, self._check)

    def data_received(self, data: bytes) -> None:
        """Tell the calls."""
        self._heard = self._loop.time() if self._alarm is not None else 0.0
        self._receiving = True
        try:
            for event in self.http2.receive_data(data):
                if event.stream_id:
                    self._tell(event)
                elif isinstance(event, SettingsReceived):
                    self._wake()
                elif isinstance(event, GoAwayReceived):
                    self._reason = event.debug[:200].decode("utf-8", "replace")
                    self._wake()
                elif isinstance(event, ConnectionFailed):
                    self._reason = f"the server broke the protocol: {event.error}"
                    self._failed = True
        finally:
            self._receiving = False
        self.flush()
        if self.http2.going_away and self._transport is not None and (not self.calls or self._failed):
            self._transport.close()

    def _tell(self, event: Any) -> None:
        call = self.calls.get(event.stream_id)
        if call is None:
            if isinstance(event, DataReceived):
                self.http2.acknowledge(event.stream_id, event.size)
        elif isinstance(event, HeadersReceived):
            call.on_headers(event)
        elif isinstance(event, DataReceived):
            call.on_data(event)
        elif isinstance(event, StreamReset):
            call.on_reset(event)
        elif isinstance(event, StreamWritable):
            call.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls."""
        self._channel.left(self)
        if self._alarm is not None:
            self._alarm.cancel()
        for call in list(self.calls.values()):
            call.on_lost(lost(self._channel.address, self._reason or exc))
        self.calls.clear()
        self._wake()
        self.resume_writing()
        self.gone.set()

    def pause_writing(self) -> None:
        """The socket is full."""
        self._paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """It is not any more."""
        if self._paused is not None:
            self._paused.set_result(None)
            self._paused = None

    # Keepalive

    def _check(self) -> None:
        """Ask a silent server, while calls are open, whether it is there; give the connection up if it says nothing."""
        interval = self._channel.keepalive
        assert interval is not None
        now = self._loop.time()
        if not self.calls or now - self._heard < interval:
            self._alarm = self._loop.call_later(interval, self._check)
            return
        self.http2.ping(_PING)
        self.flush()
        self._alarm = self._loop.call_later(min(interval, KEEPALIVE_TIMEOUT), self._expect, now)

    def _expect(self, asked: float) -> None:
        interval = self._channel.keepalive
        assert interval is not None
        if self._heard < asked and self._transport is not None:
            self._reason = "the server does not answer a PING"
            self._transport.abort()
            return
        self._alarm = self._loop.call_later(interval, self._check)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else asyncio.get_running_loop().time() + timeout


def _parse(address: str) -> str | tuple[str, int]:
    """A path, or host and port."""
    if address.startswith("unix:"):
        return "/" + address.removeprefix("unix:").lstrip("/")
    address = address.removeprefix("tcp://")
    if "/" in address:
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise InvalidArgument(f"address {address[:200]!r}: want a path or host:port")
    return host.strip("[]"), int(port)
