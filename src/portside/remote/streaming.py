"""containerd.services.streaming.v1.Streaming as a ``StreamService``: one call for each stream."""

from __future__ import annotations

import asyncio

from portside.convert.transfer import pack_any
from portside.core.anymessage import AnyMessage
from portside.core.streaming import Stream
from portside.errors import Cancelled, DeadlineExceeded, FailedPrecondition, Internal, PortsideError, Unimplemented
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.grpc.client_call import Call
from portside.wire.pb.containerd.services.streaming.v1 import streaming_pb2 as pb
from portside.wire.pb.google.protobuf import any_pb2

SERVICE = "containerd.services.streaming.v1.Streaming"
CREATE_SECONDS = 30.0
"""For the server to acknowledge a stream."""
CLOSE_SECONDS = 2.0
"""For whoever has the other end to take what was sent, once this end is closed; then the call is cancelled."""


class RemoteStreaming:
    """The streams of one namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def create(self, id: str) -> RemoteStream:
        """A new stream, acknowledged by the server."""
        call = self._caller.dialogue("Stream", any_pb2.Any)
        try:
            async with asyncio.timeout(CREATE_SECONDS):
                await call.send(_pack(pack_any(pb.StreamInit(id=id))))
                if await call.recv() is None:
                    raise Internal(f"stream {id[:100]}: the server ended it without an answer")
        except TimeoutError:
            call.cancel()
            raise DeadlineExceeded(f"stream {id[:100]}: no answer within {CREATE_SECONDS:.0f} s") from None
        except BaseException:
            call.cancel()
            raise
        return RemoteStream(call, id)

    async def take(self, id: str) -> Stream:
        """The other ends are the server's."""
        raise Unimplemented(f"stream {id[:100]}: its other end is taken by the server alone")


class RemoteStream:
    """Our end of a stream."""

    def __init__(self, call: Call[any_pb2.Any], id: str) -> None:
        self._call, self._id = call, id
        self._ended = self._closed = False

    async def send(self, message: AnyMessage) -> None:
        """Hand over a message; waits while the server takes no more."""
        if self._ended and not self._closed and not self._call.done:
            raise FailedPrecondition(f"stream {self._id}: something is sent after the end")
        try:
            if not self._closed:
                await self._call.send(_pack(message))
        except PortsideError as error:
            raise Cancelled(f"stream {self._id}: {error}") from error
        if self._closed or self._call.done:
            raise Cancelled(f"stream {self._id}: is closed")

    async def recv(self) -> AnyMessage | None:
        """The next message; None at the end."""
        if self._closed:
            raise Cancelled(f"stream {self._id}: is closed")
        try:
            message = await self._call.recv()
        except PortsideError as error:
            raise Cancelled(f"stream {self._id}: {error}") from error
        return None if message is None else AnyMessage(message.type_url, message.value)

    async def end(self) -> None:
        """Nothing more is sent from here."""
        self._ended = True
        await self._call.done_writing()

    async def close(self) -> None:
        """End it, and give the server a moment to take what is on the way."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.end()
                async for _ in self._call:
                    pass
        except (PortsideError, TimeoutError):
            pass
        finally:
            self._call.cancel()

    async def fail(self, reason: str) -> None:
        """Give it up at once."""
        self._closed = True
        self._call.cancel()


def _pack(message: AnyMessage) -> any_pb2.Any:
    return any_pb2.Any(type_url=message.type_url, value=message.value)
