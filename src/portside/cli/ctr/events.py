"""``ctr events``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import Session, command
from portside.cli.ctr.grammar import Values
from portside.cli.ctr.text import json_text, plain_time
from portside.client.events import decode


@command("[FILTER...]")
async def events(session: Session, values: Values, words: Sequence[str]) -> None:
    """One line each: time, namespace, topic, payload."""
    async for envelope in session.services.events.subscribe(list(words)):
        payload = json_text(decode(envelope), None) if envelope.event is not None else ""
        print(plain_time(envelope.timestamp_ns), envelope.namespace, envelope.topic, payload, flush=True)
