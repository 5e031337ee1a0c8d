"""Events: what happened, in order per object, to whoever listens now (containerd.services.events.v1.Events).

Nothing in portside depends on an event arriving: whoever waits for an exit asks the shim.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from portside.core.anymessage import AnyMessage


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event as it travels."""

    timestamp_ns: int
    namespace: str
    topic: str
    event: AnyMessage | None


class EventService(Protocol):
    """Publish in one namespace; subscribe to all of them (filter by ``namespace`` to narrow)."""

    async def publish(self, topic: str, event: AnyMessage) -> None:
        """Stamp and send; InvalidArgument unless the topic is ``/word/word…``."""
        ...

    async def forward(self, envelope: Envelope) -> None:
        """Send an envelope made elsewhere."""
        ...

    def subscribe(self, filters: Sequence[str] = ()) -> AsyncIterator[Envelope]:
        """Events from now on; a subscriber that does not keep up loses the oldest, and the loss is logged."""
        ...
