"""The event exchange: who publishes and who listens, in this process.

An event goes to every subscriber whose filters it matches, in the order in which it was published. Each subscriber
has a queue of its own; one that does not keep up loses its oldest events and nobody waits for it. All methods belong
to the event loop. Filters see ``topic``, ``namespace`` and ``event.<field>``, for the events that containerd defines.
What does not belong here: what the events of a service are (its own module), and sending them anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any
from weakref import WeakSet

from portside.core.anymessage import AnyMessage
from portside.core.events import Envelope
from portside.core.filters import Adaptor, FieldPath, Filter, compile_filters, from_map
from portside.core.labels import check_identifier
from portside.errors import InvalidArgument, PortsideError
from portside.wire.codec import Table, decode, encode

log = logging.getLogger(__name__)

MAX_QUEUED = 4096
"""Events that wait for one subscriber."""
MAX_QUEUED_BYTES = 16 << 20
"""The same in bytes of the events' payloads."""
MAX_EVENT = 4 << 20
"""Bytes of one event; a larger one is refused."""


class Exchange:
    """The events of one engine, all namespaces."""

    def __init__(self) -> None:
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    def emit(self, namespace: str, topic: str, type_name: str, fields: Mapping[str, Any]) -> None:
        """Publish an event of ours: ``fields`` by their names in the message ``type_name``; Any as ``AnyMessage``.

        Costs next to nothing while nobody listens.
        """
        if self._subscriptions:
            event = AnyMessage(type_name, encode(_table(type_name), _plain(fields)))
            self._send(Envelope(time.time_ns(), namespace, topic, event))

    def publish(self, namespace: str, topic: str, event: AnyMessage) -> None:
        """Stamp and send; InvalidArgument for a topic, a namespace or an event that is not allowed."""
        self.forward(Envelope(time.time_ns(), namespace, topic, event))

    def forward(self, envelope: Envelope) -> None:
        """Send an envelope made elsewhere, a shim for instance; InvalidArgument if it lacks anything."""
        check_identifier(envelope.namespace, "namespace")
        _check_topic(envelope.topic)
        if not envelope.timestamp_ns:
            raise InvalidArgument(f"event {envelope.topic}: it needs a time")
        if envelope.event is None or not envelope.event.type_url:
            raise InvalidArgument(f"event {envelope.topic}: it needs a payload with a type")
        if len(envelope.event.value) > MAX_EVENT:
            raise InvalidArgument(f"event {envelope.topic}: {len(envelope.event.value)} bytes, more than {MAX_EVENT}")
        self._send(envelope)

    def subscribe(self, filters: Sequence[str] = ()) -> Subscription:
        """Events from now on; InvalidArgument for a filter that cannot be read. The caller closes it."""
        subscription = Subscription(compile_filters(filters), self._subscriptions)
        self._subscriptions.add(subscription)
        return subscription

    def bind(self, namespace: str) -> Events:
        """The service as ``namespace`` sees it."""
        return Events(self, namespace)

    def _send(self, envelope: Envelope) -> None:
        fields = envelope_fields(envelope)
        for subscription in list(self._subscriptions):
            subscription.offer(envelope, fields)


class Events:
    """``core.events.EventService``: publishes in one namespace, hears all of them."""

    def __init__(self, exchange: Exchange, namespace: str) -> None:
        self._exchange, self._namespace = exchange, namespace

    async def publish(self, topic: str, event: AnyMessage) -> None:
        """See ``Exchange.publish``."""
        self._exchange.publish(self._namespace, topic, event)

    async def forward(self, envelope: Envelope) -> None:
        """See ``Exchange.forward``."""
        self._exchange.forward(envelope)

    def subscribe(self, filters: Sequence[str] = ()) -> Subscription:
        """See ``Exchange.subscribe``."""
        return self._exchange.subscribe(filters)


class Subscription(AsyncIterator[Envelope]):
    """One subscriber's events, for one task to iterate. ``aclose`` ends it; being forgotten ends it, too."""

    def __init__(self, accepts: Filter | None, registry: WeakSet[Subscription]) -> None:
        self._accepts = accepts
        self._registry = registry
        self._queue: deque[Envelope] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._failure: PortsideError | None = None
        self.dropped = 0
        """How many events were lost because this subscriber did not keep up."""

    def offer(self, envelope: Envelope, fields: Adaptor) -> None:
        """Queue ``envelope`` if it matches. A filter that fails ends this subscription; who sends does not feel it."""
        if self._closed or self._failure is not None or not self._wants(fields):
            return
        self._queue.append(envelope)
        self._bytes += _size(envelope)
        while len(self._queue) > MAX_QUEUED or self._bytes > MAX_QUEUED_BYTES:
            self._bytes -= _size(self._queue.popleft())
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning("events: a subscriber does not keep up and has lost %d events", self.dropped)
        self._wake()

    async def __anext__(self) -> Envelope:
        """The next event; waits for one. ResourceExhausted after the last before a filter took too long."""
        while not self._queue:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        envelope = self._queue.popleft()
        self._bytes -= _size(envelope)
        return envelope

    async def aclose(self) -> None:
        """End it: what is queued is forgotten, and who waits gets the end of the iteration."""
        self._closed = True
        self._queue.clear()
        self._bytes = 0
        self._registry.discard(self)
        self._wake()

    def _wants(self, fields: Adaptor) -> bool:
        try:
            return self._accepts is None or self._accepts(fields)
        except PortsideError as error:
            self._failure = error
            self._registry.discard(self)
            self._wake()
            return False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def envelope_fields(envelope: Envelope) -> Adaptor:
    """``topic``, ``namespace``, ``event.<field>…`` (maps by the rest of the path); the payload is decoded once."""
    decoded: list[Any] = []

    def field(path: FieldPath) -> str | None:
        match path:
            case ["topic"]:
                return envelope.topic or None
            case ["namespace"]:
                return envelope.namespace or None
            case ["event", *rest]:
                if not decoded:
                    decoded.append(_decoded(envelope.event))
                return _inside(decoded[0], rest)
        return None

    return field


def _inside(value: Any, path: Sequence[str]) -> str | None:
    for position, name in enumerate(path):
        if not isinstance(value, Mapping):
            return None
        if name not in value:
            return from_map(path[position:], value) if value and not hasattr(value, "table") else None
        value = value[name]
    if isinstance(value, bool):
        return "true" if value else None
    return str(value) if isinstance(value, str | int) and value else None


def _decoded(event: AnyMessage | None) -> Any:
    """The event's fields; None for one that we do not know."""
    if event is None:
        return None
    try:
        return decode(_table(event.type_name), event.value)
    except PortsideError:
        return None


@lru_cache(maxsize=256)
def _table(type_name: str) -> Table:
    """The codec's table of a message; InvalidArgument for one that is not ours."""
    package, _, message = type_name.rpartition(".")
    try:
        table = getattr(import_module("portside.wire.tables." + package.replace(".", "_")), message)
    except (ImportError, AttributeError, ValueError):
        table = None
    if not isinstance(table, Table):
        raise InvalidArgument(f"event {type_name[:200]!r}: not a known message")
    return table


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with every ``AnyMessage`` as the message it is."""
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, AnyMessage):
            plain[name] = {"type_url": value.type_url, "value": value.value}
        else:
            plain[name] = _plain(value) if isinstance(value, Mapping) else value
    return plain


def _check_topic(topic: str) -> None:
    if not topic.startswith("/") or len(topic) > 1024:
        raise InvalidArgument(f"event topic {topic[:100]!r}: want /word/word…")
    for word in topic[1:].split("/"):
        check_identifier(word, f"event topic {topic!r}, its part")


def _size(envelope: Envelope) -> int:
    return len(envelope.event.value) if envelope.event is not None else 0
