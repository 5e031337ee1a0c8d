"""``containerd.services.events.ttrpc.v1.Events``: where shims of others deliver their events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from portside.convert.running import envelope_from_pb
from portside.core.services import Backend
from portside.wire.pb.containerd.services.ttrpc.events.v1 import events_pb2

_SERVICE = "containerd.services.events.ttrpc.v1.Events"


def forward_handlers(backend: Backend) -> Mapping[tuple[str, str], Callable[[bytes, Any], Awaitable[bytes]]]:
    """The table for a ``TtrpcServer``."""

    async def forward(payload: bytes, metadata: Any) -> bytes:
        envelope = envelope_from_pb(events_pb2.ForwardRequest.FromString(payload).envelope)
        await backend.bind(envelope.namespace).events.forward(envelope)
        return b""

    return {(_SERVICE, "Forward"): forward}
