"""containerd.services.events.v1.Events, and the Forward of shims over ttrpc."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.api.context import bound
from portside.convert.basics import any_from_pb
from portside.convert.running import envelope_from_pb, envelope_to_pb
from portside.core.services import Backend
from portside.errors import InvalidArgument
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.events.v1 import events_pb2 as pb
from portside.wire.pb.containerd.types import event_pb2
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Events"]


class EventsService:
    """Events of all namespaces."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def publish(self, request: pb.PublishRequest, call: Call) -> empty_pb2.Empty:
        """Stamp an event with time and namespace, and send it."""
        event = any_from_pb(request.event)
        if event is None:
            raise InvalidArgument(f"publish {request.topic[:100]!r}: the event is empty")
        await bound(self._backend, call).events.publish(request.topic, event)
        return empty_pb2.Empty()

    async def forward(self, request: pb.ForwardRequest, call: Call) -> empty_pb2.Empty:
        """Send an envelope as it is."""
        envelope = envelope_from_pb(request.envelope)
        await self._backend.bind(envelope.namespace).events.forward(envelope)
        return empty_pb2.Empty()

    async def subscribe(self, request: pb.SubscribeRequest, call: Call) -> AsyncIterator[event_pb2.Envelope]:
        """Events from now on; whoever subscribes needs no namespace."""
        call.endless = True
        events = self._backend.bind("default").events
        async for envelope in events.subscribe(tuple(request.filters)):
            yield envelope_to_pb(envelope)
