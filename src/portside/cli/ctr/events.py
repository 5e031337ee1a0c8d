"""``ctr events``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from portside.cli.ctr.command import Session, Values, command
from portside.client.events import decode


@command("events", "[FILTER...]", "show events as they happen")
async def events(session: Session, values: Values, words: Sequence[str]) -> None:
    """One line each: time, namespace, topic, payload."""
    async for envelope in session.services.events.subscribe(list(words)):
        seconds, nanos = divmod(envelope.timestamp_ns, 1_000_000_000)
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{nanos:09d} +0000 UTC"
        print(moment, envelope.namespace, envelope.topic, json.dumps(decode(envelope)), flush=True)


COMMANDS = (events,)
