"""The streams of an engine: pairs of ends in memory, found by namespace and id until one end is closed.

Each direction holds a bounded number of bytes; who sends more waits. A stream that nobody takes costs no more than
what its maker may send ahead. The door (``api/containerd/streaming.py``) only carries messages to and from one end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from portside.core.anymessage import AnyMessage
from portside.core.streaming import MAX_ID, Stream
from portside.errors import AlreadyExists, Cancelled, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from portside.metadata.schema import LEASES
from portside.metadata.state import Effect
from portside.metadata.store import Metadata

MAX_STREAMS = 4096
"""In all namespaces together."""
MAX_STREAMS_OF_NAMESPACE = 1024
BUFFER = 256 << 10
"""Bytes on their way in one direction; a larger message travels alone."""
_OVERHEAD = 256
"""What a message costs beside its bytes, so that empty ones are limited too."""


class _Direction:
    """Messages from one end to the other, and who waits for a change."""

    def __init__(self) -> None:
        self.messages: deque[AnyMessage] = deque()
        self.size = 0
        self.ended = False
        self._waiters: set[asyncio.Future[None]] = set()

    def has_room(self) -> bool:
        return not self.messages or self.size < BUFFER

    def put(self, message: AnyMessage) -> None:
        self.messages.append(message)
        self.size += len(message.value) + _OVERHEAD
        self.wake()

    def get(self) -> AnyMessage:
        message = self.messages.popleft()
        self.size -= len(message.value) + _OVERHEAD
        self.wake()
        return message

    def clear(self) -> None:
        self.messages.clear()
        self.size = 0

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class LocalStream:
    """One end (core/streaming.Stream); ``pair`` makes two."""

    def __init__(self, name: str, inbound: _Direction, outbound: _Direction) -> None:
        self.name = name
        self._in, self._out = inbound, outbound
        self._closed = False
        self._error: Cancelled | None = None
        self._other: LocalStream = self
        self.on_close: Callable[[], None] = lambda: None
        """Called once, when this end is closed."""

    @classmethod
    def pair(cls, name: str) -> tuple[LocalStream, LocalStream]:
        """Two ends of a new stream."""
        there, back = _Direction(), _Direction()
        one, other = cls(name, there, back), cls(name, back, there)
        one._other, other._other = other, one
        return one, other

    async def send(self, message: AnyMessage) -> None:
        """Hand over a message; waits while ``BUFFER`` is full."""
        while not self._out.has_room() and not self._is_over():
            await self._out.wait()
        if self._is_over():
            raise self._error or Cancelled(f"stream {self.name}: is closed")
        if self._out.ended:
            raise FailedPrecondition(f"stream {self.name}: something is sent after the end")
        self._out.put(message)

    async def recv(self) -> AnyMessage | None:
        """The next message; None at the end."""
        while not (self._in.messages or self._in.ended or self._closed or self._error):
            await self._in.wait()
        if self._error is not None:
            raise self._error
        if self._closed:
            raise Cancelled(f"stream {self.name}: is closed")
        return self._in.get() if self._in.messages else None

    async def end(self) -> None:
        """Nothing more is sent from here."""
        self._out.ended = True
        self._out.wake()

    async def close(self) -> None:
        """Give this end up; the other gets what is on its way, then the end."""
        self.close_nowait()

    def close_nowait(self) -> None:
        """The same; it never has to wait."""
        if self._closed:
            return
        self._closed = True
        self._out.ended = True
        self._in.clear()
        self._in.wake()
        self._out.wake()
        on_close, self.on_close = self.on_close, lambda: None
        on_close()

    async def fail(self, reason: str) -> None:
        """Both ends are over at once, and say why."""
        self.fail_nowait(reason)

    def fail_nowait(self, reason: str) -> None:
        """The same; it never has to wait."""
        if self._closed:
            return
        self._error = self._other._error = Cancelled(f"stream {self.name}: {reason}")
        self._out.clear()
        self.close_nowait()

    def _is_over(self) -> bool:
        return self._closed or self._other._closed or self._error is not None


class _Named:
    """A stream in the table: the end to be taken, and the lease it was made under."""

    def __init__(self, end: LocalStream, lease: str) -> None:
        self.end, self.lease = end, lease
        self.taken = False


class StreamManager:
    """All streams of an engine, by namespace and id."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], _Named] = {}

    def watch(self, metadata: Metadata) -> None:
        """From now on, streams end with their leases."""
        metadata.db.published.append(self._published)

    def __len__(self) -> int:
        return len(self._streams)

    def create(self, namespace: str, lease: str, id: str) -> LocalStream:
        """A new stream; the maker's end of it."""
        if not id or len(id) > MAX_ID:
            raise InvalidArgument(f"stream {id[:100]!r}: want an id of 1 to {MAX_ID} characters")
        if (namespace, id) in self._streams:
            raise AlreadyExists(f"stream {id!r} in namespace {namespace!r}: already exists")
        of_namespace = sum(1 for owner, _ in self._streams if owner == namespace)
        if len(self._streams) >= MAX_STREAMS or of_namespace >= MAX_STREAMS_OF_NAMESPACE:
            raise ResourceExhausted(
                f"stream {id!r}: there are {of_namespace} streams in namespace {namespace!r} and {len(self._streams)} "
                f"in all; at most {MAX_STREAMS_OF_NAMESPACE} and {MAX_STREAMS} may be"
            )
        made, end = LocalStream.pair(id)
        named = self._streams[namespace, id] = _Named(end, lease)

        def forget() -> None:
            if self._streams.get((namespace, id)) is named:
                del self._streams[namespace, id]

        made.on_close = end.on_close = forget
        return made

    def take(self, namespace: str, id: str) -> LocalStream:
        """The other end, once."""
        named = self._streams.get((namespace, id))
        if named is None:
            raise NotFound(f"stream {id[:100]!r} in namespace {namespace!r}: not found")
        if named.taken:
            raise FailedPrecondition(f"stream {id!r} in namespace {namespace!r}: is in use already")
        named.taken = True
        return named.end

    def close(self) -> None:
        """End all streams."""
        for named in list(self._streams.values()):
            named.end.fail_nowait("the engine ends")

    def _published(self, effects: Sequence[Effect]) -> None:
        gone = {(effect.scope[0], effect.key) for effect in effects if effect.table is LEASES and effect.new is None}
        if not gone:
            return
        for (namespace, _), named in list(self._streams.items()):
            if (namespace, named.lease) in gone:
                named.end.close_nowait()


class LocalStreaming:
    """core/streaming.StreamService of one namespace; costs nothing to make."""

    def __init__(self, manager: StreamManager, metadata: Metadata, namespace: str, lease: str) -> None:
        self._manager, self._metadata = manager, metadata
        self._namespace, self._lease = namespace, lease

    async def create(self, id: str) -> LocalStream:
        """A new stream, held by the lease if there is one."""
        if self._lease and self._metadata.db.state.get(LEASES, (self._namespace,), self._lease) is None:
            raise NotFound(f"lease {self._lease!r} in namespace {self._namespace!r}: not found")
        return self._manager.create(self._namespace, self._lease, id)

    async def take(self, id: str) -> Stream:
        """The other end of a stream."""
        return self._manager.take(self._namespace, id)
