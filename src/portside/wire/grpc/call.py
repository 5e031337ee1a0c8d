"""One call on the server: what its handler sees of it, and how it waits for requests and for room to answer.

The request's head is read once for each distinct header block (``Head``, kept in ``Headers.memo``); the rest is state.
Which bytes a call sends is decided in ``serving.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from portside import errors
from portside.wire.grpc.protocol import CONTENT_TYPE, MessageReader, decode_metadata, decode_timeout, decompress
from portside.wire.grpc.service import Method

if TYPE_CHECKING:
    from portside.wire.grpc.serving import Connection
    from portside.wire.http2.hpack import Headers


class Head:
    """What the header list of a request says; the same for every call with the same block.

    ``refusal`` is the status that answers the call without a handler, ``http_status`` the HTTP status for what is not
    gRPC at all (None for gRPC).
    """

    __slots__ = ("accepts_gzip", "gzip", "http_status", "metadata", "method", "refusal", "timeout")

    def __init__(self, headers: Headers, methods: Mapping[bytes, Method]) -> None:
        self.method: Method | None = None
        self.metadata: Mapping[str, str | bytes] = {}
        self.timeout: float | None = None
        self.gzip = False
        self.accepts_gzip = False
        self.refusal: errors.PortsideError | None = None
        self.http_status: bytes | None = None
        fields = dict(reversed(headers.fields))  # of repeated names the first
        content_type = fields.get(b"content-type", b"")
        if fields.get(b":method") != b"POST":
            self.http_status = b"405"
        elif not _is_grpc(content_type):
            self.http_status = b"415"
        else:
            self._read(fields, headers, methods)

    def _read(self, fields: dict[bytes, bytes], headers: Headers, methods: Mapping[bytes, Method]) -> None:
        path = fields[b":path"]
        self.method = methods.get(path)
        if self.method is None:
            self.refusal = _unknown(path, methods)
        self.accepts_gzip = b"gzip" in fields.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
        encoding = fields.get(b"grpc-encoding", b"identity")
        if encoding not in (b"identity", b"gzip"):
            self.refusal = errors.Unimplemented(f"grpc-encoding {encoding.decode('latin-1')!r} is not supported")
        self.gzip = encoding == b"gzip"
        try:
            if b"grpc-timeout" in fields:
                self.timeout = decode_timeout(fields[b"grpc-timeout"])
            pairs = decode_metadata(headers.fields)
        except (ValueError, errors.Internal) as error:
            self.refusal = errors.Internal(str(error))
            return
        self.metadata = MappingProxyType(dict(reversed(pairs)))


def _is_grpc(content_type: bytes) -> bool:
    rest = content_type.lower().removeprefix(CONTENT_TYPE)
    return rest != content_type.lower() and rest.partition(b";")[0].rstrip() in (b"", b"+proto")


def _unknown(path: bytes, methods: Mapping[bytes, Method]) -> errors.Unimplemented:
    service, _, method = path.decode("latin-1").lstrip("/").rpartition("/")
    if any(known.startswith(f"/{service}/".encode("latin-1")) for known in methods):
        return errors.Unimplemented(f"unknown method {method} for service {service}")
    return errors.Unimplemented(f"unknown service {service}")


def undecodable(method: Method, error: Exception) -> errors.Internal:
    """For a request that its class does not take: google.protobuf's DecodeError, or that of another serializer."""
    return errors.Internal(f"{method.path}: the request cannot be decoded: {error}")


class ServerCall:
    """The ``Call`` that handlers get. Beyond it: ``set_header``, ``compress``, ``request_compressed``."""

    # Defaults of the class: most calls never set these, and there are many calls.
    deadline: float | None = None
    done = False  # the status is sent, or nobody waits for it
    endless = False
    ended = False  # the client has ended its side
    head_sent = False
    compressed = False
    request_compressed = False
    """Whether the request that the handler has (the latest, of a stream) came compressed."""
    reader: MessageReader | None = None
    message: tuple[int, bytes] | None = None  # the request of a client that does not stream
    messages: deque[tuple[int, bytes]] | None = None
    unacknowledged = 0
    waiter: asyncio.Future[None] | None = None  # of a handler that waits for requests
    room: asyncio.Future[None] | None = None  # of a handler that waits to write
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    headers: list[tuple[str, str | bytes]] | None = None
    trailers: list[tuple[str, str | bytes]] | None = None

    def __init__(self, connection: Connection, stream_id: int, head: Head, method: Method) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.head = head
        self.method = method

    @property
    def metadata(self) -> Mapping[str, str | bytes]:
        """Request metadata by lower-case key; keys ending in ``-bin`` have bytes. Of repeated keys the first."""
        return self.head.metadata

    def set_trailer(self, key: str, value: str | bytes) -> None:
        """Add trailing metadata. InvalidArgument when the call ends, if it cannot be sent."""
        if self.trailers is None:
            self.trailers = []
        self.trailers.append((key, value))

    def set_header(self, key: str, value: str | bytes) -> None:
        """Add leading metadata. FailedPrecondition if the first message of the answer has gone already."""
        if self.head_sent:
            raise errors.FailedPrecondition(f"metadata {key!r}: the head of the answer has been sent")
        if self.headers is None:
            self.headers = []
        self.headers.append((key, value))

    def compress(self) -> None:
        """Compress the messages of the answer by gzip, if the client takes that; to be asked before the first one."""
        self.compressed = self.head.accepts_gzip and not self.head_sent

    # Below: for serving.py.

    def parse(self, message: tuple[int, bytes]) -> Any:
        """The request that ``message`` (compressed flag and bytes) is."""
        flag, data = message
        self.request_compressed = bool(flag)
        if flag:
            if not self.head.gzip:
                raise errors.Internal("a compressed message without grpc-encoding")
            data = decompress(data, self.connection.limits.max_message_size)
        try:
            return self.method.request.FromString(data)
        except Exception as error:
            raise undecodable(self.method, error) from error

    def requests(self) -> Requests:
        """The requests of a client that streams."""
        return Requests(self)

    def wake(self) -> None:
        """A request has come, or the last one has."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def wake_writer(self) -> None:
        """There may be room to write again."""
        if self.room is not None and not self.room.done():
            self.room.set_result(None)


class Requests:
    """Async iterator of the requests of a client that streams; taking one gives the client credit to send more."""

    __slots__ = ("_call",)

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        messages = call.messages
        assert messages is not None
        while not messages:
            if call.ended:
                raise StopAsyncIteration
            call.waiter = call.connection.loop.create_future()
            try:
                await call.waiter
            finally:
                call.waiter = None
        message = messages.popleft()
        if not messages:
            call.connection.acknowledge(call)
        return call.parse(message)
