"""containerd.services.streaming.v1.Streaming: a call carries the messages of one stream, both ways.

The first message names the stream (``StreamInit``) and is answered by an ``Empty``; from then on others may take the
stream. The call ends well when whoever took it closes it; a client that goes away ends the stream for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from portside.api.context import bound
from portside.convert.transfer import unpack_any
from portside.core.anymessage import AnyMessage
from portside.core.services import Backend
from portside.core.streaming import Stream
from portside.errors import DeadlineExceeded, InvalidArgument, PortsideError
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.streaming.v1 import streaming_pb2 as pb
from portside.wire.pb.google.protobuf import any_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Streaming"]

INIT_SECONDS = 30.0
"""For the first message; a call that does not say what it is about holds something for nobody."""
_ACKNOWLEDGED = any_pb2.Any(type_url="google.protobuf.Empty")


class StreamingService:
    """Streams of all namespaces."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def stream(self, requests: AsyncIterator[any_pb2.Any], call: Call) -> AsyncIterator[any_pb2.Any]:
        """One stream from its creation to its end."""
        services = bound(self._backend, call)
        stream = await services.streaming.create(await _id(requests))
        call.endless = True
        inward = asyncio.create_task(_carry(requests, stream), name="messages of a client's stream")
        try:
            yield _ACKNOWLEDGED
            while (message := await stream.recv()) is not None:
                yield any_pb2.Any(type_url=message.type_url, value=message.value)
        except BaseException:
            await stream.fail("its client went away")
            raise
        finally:
            inward.cancel()
            await asyncio.gather(inward, return_exceptions=True)
            await stream.close()


async def _id(requests: AsyncIterator[any_pb2.Any]) -> str:
    try:
        async with asyncio.timeout(INIT_SECONDS):
            first = await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(f"stream: no first message within {INIT_SECONDS:.0f} s") from None
    if first is None:
        raise InvalidArgument("stream: the call ended before its first message")
    return unpack_any(AnyMessage(first.type_url, first.value), pb.StreamInit, "stream").id


async def _carry(requests: AsyncIterator[any_pb2.Any], stream: Stream) -> None:
    """What the client sends, to its end or that of the stream; one message at a time, so that it has to wait."""
    while True:
        try:
            message = await anext(requests, None)
        except PortsideError as error:
            await stream.fail(str(error))
            return
        if message is None:
            await stream.end()
            return
        try:
            await stream.send(AnyMessage(message.type_url, message.value))
        except PortsideError:
            return  # whoever took it has closed it; the call ends by that
