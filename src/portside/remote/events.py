"""containerd.services.events.v1.Events as an ``EventService``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from portside.convert.basics import any_to_pb
from portside.convert.running import envelope_from_pb, envelope_to_pb
from portside.core.anymessage import AnyMessage
from portside.core.events import Envelope
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.events.v1 import events_pb2 as pb
from portside.wire.pb.containerd.types import event_pb2
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = "containerd.services.events.v1.Events"


class RemoteEvents:
    """Publishes in one namespace, subscribes to all."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def publish(self, topic: str, event: AnyMessage) -> None:
        """Send an event; the server stamps it."""
        request = pb.PublishRequest(topic=topic, event=any_to_pb(event))
        await self._caller.call("Publish", request, empty_pb2.Empty)

    async def forward(self, envelope: Envelope) -> None:
        """Send an envelope as it is."""
        request = pb.ForwardRequest(envelope=envelope_to_pb(envelope))
        await self._caller.call("Forward", request, empty_pb2.Empty)

    async def subscribe(self, filters: Sequence[str] = ()) -> AsyncIterator[Envelope]:
        """Events from when the server has taken the call, which it does not tell: the first event does."""
        request = pb.SubscribeRequest(filters=filters)
        async for envelope in self._caller.answers("Subscribe", request, event_pb2.Envelope):
            yield envelope_from_pb(envelope)
