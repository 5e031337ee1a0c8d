"""The exchange beyond its contract: slow subscribers, filters into events, forgotten subscriptions."""

import asyncio
import gc

import pytest

from portside.core.anymessage import AnyMessage
from portside.core.events import Envelope
from portside.engine import events
from portside.engine.events import Exchange, envelope_fields
from portside.errors import InvalidArgument, ResourceExhausted
from portside.wire.codec import decode
from portside.wire.tables import containerd_events

EVENT = AnyMessage("x.Y", b"")


@pytest.fixture
def exchange():
    return Exchange()


async def test_a_slow_subscriber_loses_the_oldest_and_nobody_waits(exchange, monkeypatch, caplog):
    monkeypatch.setattr(events, "MAX_QUEUED", 3)
    slow, quick = exchange.subscribe(), exchange.subscribe()
    got = []
    for number in range(5):
        exchange.publish("ns", f"/t/{number}", EVENT)
        got.append((await anext(quick)).topic)
    assert got == [f"/t/{number}" for number in range(5)]
    assert slow.dropped == 2 and quick.dropped == 0
    assert [(await anext(slow)).topic for _ in range(3)] == ["/t/2", "/t/3", "/t/4"]
    assert "does not keep up" in caplog.text


async def test_bytes_are_bounded_too(exchange, monkeypatch):
    monkeypatch.setattr(events, "MAX_QUEUED_BYTES", 250)
    slow = exchange.subscribe()
    for number in range(5):
        exchange.publish("ns", f"/t/{number}", AnyMessage("x", b"x" * 100))
    assert slow.dropped == 3


async def test_a_filter_that_takes_too_long_ends_its_own_subscription_alone(exchange):
    greedy, other = exchange.subscribe(["topic~=/(.?){300}!|short/"]), exchange.subscribe()
    for topic in ("/short", "/abcdefghijklmnopqrstuvwxyz", "/short/again"):
        exchange.publish("ns", topic, EVENT)
    assert (await anext(greedy)).topic == "/short"
    with pytest.raises(ResourceExhausted, match="filter 'topic~="):
        await anext(greedy)
    assert [(await anext(other)).topic[:6] for _ in range(3)] == ["/short", "/abcde", "/short"]


async def test_events_that_are_too_large(exchange):
    with pytest.raises(InvalidArgument):
        exchange.publish("ns", "/t", AnyMessage("x", bytes(events.MAX_EVENT + 1)))
    with pytest.raises(InvalidArgument):
        exchange.publish("ns", "/t", AnyMessage("", b""))


async def test_a_subscription_that_is_forgotten_is_gone(exchange):
    subscription = exchange.subscribe()
    assert len(exchange._subscriptions) == 1
    del subscription
    gc.collect()
    assert len(exchange._subscriptions) == 0
    exchange.publish("ns", "/t", EVENT)


async def test_aclose_ends_the_iteration_of_who_waits(exchange):
    subscription = exchange.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    await subscription.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    exchange.publish("ns", "/t", EVENT)
    assert [event async for event in subscription] == []


async def test_a_cancelled_waiter_loses_nothing(exchange):
    subscription = exchange.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    exchange.publish("ns", "/t", EVENT)
    assert (await anext(subscription)).topic == "/t"


async def test_emit_encodes_what_containerd_defines(exchange):
    subscription = exchange.subscribe()
    options = AnyMessage("containerd.runc.v1.Options", b"\x01")
    fields = {"id": "box", "image": "img", "runtime": {"name": "rt", "options": options}}
    exchange.emit("ns", "/containers/create", "containerd.events.ContainerCreate", fields)
    event = (await anext(subscription)).event
    message = decode(containerd_events.ContainerCreate, event.value)
    assert message["id"] == "box" and message["runtime"]["name"] == "rt"
    assert message["runtime"]["options"]["value"] == b"\x01"
    exchange.emit("ns", "/containers/create", "containerd.events.ContainerCreate",
                  {"id": "x", "image": "", "runtime": {"name": "rt", "options": None}})  # fmt: skip
    assert (await anext(subscription)).event.type_url == "containerd.events.ContainerCreate"


def fields_of(type_name, fields):
    exchange = Exchange()
    subscription = exchange.subscribe()
    exchange.emit("ns", "/t", type_name, fields)
    return envelope_fields(subscription._queue[0])


def test_fields_of_events():
    update = fields_of(
        "containerd.events.ContainerUpdate", {"id": "box", "labels": {"a.b": "c"}, "image": "", "snapshot_key": "k"}
    )
    assert update(("event", "id")) == "box"
    assert update(("event", "labels", "a", "b")) == "c"
    assert update(("event", "labels", "a.b")) == "c"
    assert update(("event", "image")) is None
    assert update(("event", "nonsense")) is None
    assert update(("event", "id", "deeper")) is None
    assert update(("event",)) is None
    assert update(("namespace",)) == "ns" and update(("topic",)) == "/t" and update(()) is None
    exit = fields_of("containerd.events.TaskExit", {"container_id": "c", "pid": 12, "exit_status": 0})
    assert exit(("event", "pid")) == "12" and exit(("event", "exit_status")) is None


def test_fields_of_events_that_are_not_ours_or_broken():
    for event in (EVENT, AnyMessage("containerd.events.TaskExit", b"\xff"), AnyMessage("..", b""), None):
        assert envelope_fields(Envelope(1, "ns", "/t", event))(("event", "id")) is None
    prefixed = AnyMessage("type.googleapis.com/containerd.events.TaskOOM", b"\x0a\x01c")
    assert envelope_fields(Envelope(1, "ns", "/t", prefixed))(("event", "container_id")) == "c"
