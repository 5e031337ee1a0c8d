"""Streams in memory: order, ends, limits, and who they end with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portside.core.anymessage import AnyMessage
from portside.core.streaming import MAX_ID
from portside.engine import streaming
from portside.engine.streaming import BUFFER, LocalStream, LocalStreaming, StreamManager
from portside.errors import AlreadyExists, Cancelled, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from tests.contracts.local import LocalBackend


def message(text: str) -> AnyMessage:
    return AnyMessage("test.Text", text.encode())


async def settled() -> None:
    """Everything that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_messages_come_in_order_both_ways() -> None:
    one, other = LocalStream.pair("s")
    for text in ("a", "b", "c"):
        await one.send(message(text))
        await other.send(message(text.upper()))
    assert [(await other.recv()).value for _ in range(3)] == [b"a", b"b", b"c"]
    assert [(await one.recv()).value for _ in range(3)] == [b"A", b"B", b"C"]


async def test_an_end_is_told_after_what_was_sent_and_receiving_goes_on() -> None:
    one, other = LocalStream.pair("s")
    await one.send(message("last"))
    await one.end()
    await one.end()
    assert (await other.recv()) == message("last")
    assert await other.recv() is None and await other.recv() is None
    await other.send(message("back"))
    assert (await one.recv()) == message("back")
    with pytest.raises(FailedPrecondition):
        await one.send(message("more"))


async def test_closing_one_end_ends_the_other() -> None:
    one, other = LocalStream.pair("s")
    await one.send(message("last"))
    waiting = asyncio.create_task(one.recv())
    await settled()
    await one.close()
    await one.close()
    with pytest.raises(Cancelled, match="is closed"):
        await waiting
    with pytest.raises(Cancelled):
        await other.send(message("to nobody"))
    assert (await other.recv()) == message("last")
    assert await other.recv() is None


async def test_a_failure_is_known_at_both_ends_at_once() -> None:
    one, other = LocalStream.pair("s")
    await one.send(message("lost"))
    waiting = asyncio.create_task(one.recv())
    await settled()
    await one.fail("its client went away")
    for call in (other.recv(), other.send(message("x")), one.send(message("x")), waiting):
        with pytest.raises(Cancelled, match="went away"):
            await call


async def test_a_sender_waits_for_room() -> None:
    one, other = LocalStream.pair("s")
    large = AnyMessage("test.Data", bytes(BUFFER))
    await one.send(large)
    waiting = asyncio.create_task(one.send(message("next")))
    await settled()
    assert not waiting.done()
    assert await other.recv() == large
    await waiting
    assert await other.recv() == message("next")
    await one.send(large)
    waiting = asyncio.create_task(one.send(message("never")))
    await settled()
    await other.close()
    with pytest.raises(Cancelled):
        await waiting


async def test_many_small_messages_are_limited_too() -> None:
    one, _ = LocalStream.pair("s")

    async def flood() -> None:
        while True:
            await one.send(AnyMessage("", b""))

    flooding = asyncio.create_task(flood())
    await settled()
    assert not flooding.done()
    assert len(one._out.messages) <= BUFFER // 256 + 1
    flooding.cancel()


async def test_a_waiter_that_is_cancelled_leaves_the_rest() -> None:
    one, other = LocalStream.pair("s")
    first, second = (asyncio.create_task(other.recv()) for _ in range(2))
    await settled()
    first.cancel()
    await one.send(message("for the second"))
    assert await second == message("for the second")


# By name


def test_ids() -> None:
    manager = StreamManager()
    for id in ("", "x" * (MAX_ID + 1)):
        with pytest.raises(InvalidArgument, match="1 to"):
            manager.create("default", "", id)
    manager.create("default", "", "x" * MAX_ID)


async def test_a_stream_is_found_by_namespace_and_id_once() -> None:
    manager = StreamManager()
    made = manager.create("default", "", "one")
    manager.create("other", "", "one")
    with pytest.raises(AlreadyExists, match="'one' in namespace 'default'"):
        manager.create("default", "", "one")
    with pytest.raises(NotFound, match="'two'"):
        manager.take("default", "two")
    taken = manager.take("default", "one")
    with pytest.raises(FailedPrecondition, match="in use"):
        manager.take("default", "one")
    await made.send(message("hello"))
    assert await taken.recv() == message("hello")
    await taken.close()
    with pytest.raises(NotFound):
        manager.take("default", "one")
    again = manager.create("default", "", "one")
    await made.close()  # the old one: the new one stays
    assert await manager.take("default", "one").end() is None
    assert await again.recv() is None


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_STREAMS_OF_NAMESPACE", 3)
    monkeypatch.setattr(streaming, "MAX_STREAMS", 4)
    manager = StreamManager()
    for number in range(3):
        manager.create("default", "", str(number))
    with pytest.raises(ResourceExhausted, match="3 streams in namespace 'default' and 3 in all"):
        manager.create("default", "", "one more")
    manager.create("other", "", "fits")
    with pytest.raises(ResourceExhausted):
        manager.create("other", "", "one more")
    assert len(manager) == 4


async def test_the_end_of_the_engine_is_that_of_all_streams() -> None:
    manager = StreamManager()
    made = [manager.create("default", "", str(number)) for number in range(3)]
    manager.close()
    for stream in made:
        with pytest.raises(Cancelled, match="engine ends"):
            await stream.recv()
    assert len(manager) == 0


# Leases


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(tmp_path / "root")
    yield backend
    await backend.close()


async def test_streams_end_with_their_lease(backend: LocalBackend) -> None:
    manager = StreamManager()
    manager.watch(backend.metadata)
    leases = backend.metadata.leases("default")
    await leases.create("mine")
    await leases.create("other")
    held = await LocalStreaming(manager, backend.metadata, "default", "mine").create("held")
    other = await LocalStreaming(manager, backend.metadata, "default", "other").create("other")
    free = await LocalStreaming(manager, backend.metadata, "default", "").create("free")
    await leases.delete("mine")
    assert await held.recv() is None
    assert len(manager) == 2
    for stream in (other, free):
        await stream.send(message("goes on"))
    with pytest.raises(NotFound, match="lease 'mine'"):
        await LocalStreaming(manager, backend.metadata, "default", "mine").create("late")
