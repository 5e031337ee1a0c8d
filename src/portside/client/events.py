"""Events: what happens in a server, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from importlib import import_module
from typing import Any

from portside.client.messages import document
from portside.core.events import Envelope
from portside.core.services import Services
from portside.wire.pool import POOL

_MODULES = ("container", "content", "image", "namespace", "sandbox", "snapshot", "task")


async def events(services: Services, filters: Sequence[str] = ()) -> AsyncIterator[Envelope]:
    """Events of this namespace from now on; ``filters`` (any of them) narrow by topic or by a field of the event."""
    narrowed = [f"namespace=={services.namespace},{text}" for text in filters] or [f"namespace=={services.namespace}"]
    async for envelope in services.events.subscribe(narrowed):
        yield envelope


def decode(envelope: Envelope) -> dict[str, Any]:
    """The event's fields, by the names of its message; empty for a kind that we do not know."""
    if envelope.event is None:
        return {}
    from google.protobuf import message_factory

    for module in _MODULES:
        import_module(f"portside.wire.pb.containerd.events.{module}_pb2")
    try:
        kind = message_factory.GetMessageClass(POOL.FindMessageTypeByName(envelope.event.type_name))
    except KeyError:
        return {}
    return document(kind.FromString(envelope.event.value))
