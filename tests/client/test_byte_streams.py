"""Bytes over streams: all of them arrive, within the windows, and a fault at one end is known at the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.client import byte_streams
from portside.client.byte_streams import MAX_DATA, WINDOW, ByteWriter, read_bytes, write_bytes
from portside.convert.transfer import data_from_any, data_to_any, window_from_any, window_to_any
from portside.core.anymessage import AnyMessage
from portside.engine.streaming import LocalStream
from portside.errors import Cancelled, InvalidArgument, ResourceExhausted


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read_all(stream: LocalStream) -> bytes:
    return b"".join([chunk async for chunk in read_bytes(stream, "test")])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=3 * WINDOW), max_size=5))
async def test_all_bytes_arrive(parts: list[bytes]) -> None:
    one, other = LocalStream.pair("s")
    reading = asyncio.create_task(read_all(other))
    await write_bytes(one, pieces(*parts), "test")
    assert await reading == b"".join(parts)


async def test_messages_are_as_small_as_containerds() -> None:
    """32 KiB at most, and never beyond the leave that was given."""
    one, other = LocalStream.pair("s")
    writing = asyncio.create_task(write_bytes(one, pieces(bytes(5 * WINDOW + 1)), "test"))
    leave = total = 0
    while True:
        if leave < WINDOW:
            await other.send(window_to_any(WINDOW))
            leave += WINDOW
        message = await other.recv()
        if message is None:
            break
        size = len(data_from_any(message, "test"))
        assert 0 < size <= MAX_DATA
        leave, total = leave - size, total + size
        assert leave >= 0
    await writing
    assert total == 5 * WINDOW + 1


async def test_a_slow_reader_holds_two_windows_at_most() -> None:
    one, other = LocalStream.pair("s")
    reader = read_bytes(other, "test")
    writing = asyncio.create_task(write_bytes(one, pieces(bytes(20 * WINDOW)), "test"))
    assert len(await anext(reader)) == MAX_DATA
    for _ in range(100):
        await asyncio.sleep(0)
    assert not writing.done()
    assert one._out.size <= 2 * WINDOW + 4096
    await other.close()
    with pytest.raises(Cancelled):
        await writing


async def test_a_reader_gives_no_more_leave_than_it_wants() -> None:
    one, other = LocalStream.pair("s")
    reading = asyncio.create_task(read_all(other))
    assert window_from_any(await one.recv(), "test") == WINDOW  # type: ignore[arg-type]
    await one.send(data_to_any(bytes(MAX_DATA)))
    assert window_from_any(await one.recv(), "test") == WINDOW  # type: ignore[arg-type]
    await one.send(data_to_any(bytes(MAX_DATA)))  # still a whole window out
    await one.end()
    assert len(await reading) == 2 * MAX_DATA


async def test_more_than_the_leave_is_refused() -> None:
    one, other = LocalStream.pair("s")
    reading = asyncio.create_task(read_all(other))
    await one.recv()
    await one.send(data_to_any(bytes(WINDOW + 1)))
    with pytest.raises(ResourceExhausted, match="test: the other end sends more"):
        await reading


@pytest.mark.parametrize(
    "value", [AnyMessage("no.such.Message", b""), AnyMessage("containerd.types.transfer.Data", b"\xff")]
)
async def test_other_messages_are_refused(value: AnyMessage) -> None:
    one, other = LocalStream.pair("s")
    await one.send(value)
    with pytest.raises(InvalidArgument, match="test: "):
        await read_all(other)
    one, other = LocalStream.pair("s")
    await other.send(value)
    with pytest.raises(InvalidArgument, match="test: "):
        await write_bytes(one, pieces(b"x"), "test")


async def test_a_writer_that_is_lost_is_not_an_end() -> None:
    one, other = LocalStream.pair("s")
    reading = asyncio.create_task(read_all(other))
    await one.recv()
    await one.send(data_to_any(b"half"))
    await one.fail("gone")
    with pytest.raises(Cancelled, match="gone"):
        await reading


async def test_a_reader_that_ends_stops_the_writer() -> None:
    one, other = LocalStream.pair("s")
    await other.end()
    with pytest.raises(Cancelled, match="nobody reads"):
        await write_bytes(one, pieces(b"x"), "test")


async def test_close_waits_until_the_reader_has_taken_it() -> None:
    one, other = LocalStream.pair("s")
    writer = ByteWriter(one, "test")
    await other.send(window_to_any(WINDOW))
    await writer.write(bytes(WINDOW))
    closing = asyncio.create_task(writer.close())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    await other.send(window_to_any(WINDOW))
    await closing
    for _ in range(2):
        assert await other.recv() is not None
    assert await other.recv() is None


async def test_close_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_streams, "SETTLE_SECONDS", 0.01)
    one, other = LocalStream.pair("s")
    writer = ByteWriter(one, "test")
    await other.send(window_to_any(100))
    await writer.write(bytes(100))
    await writer.close()
    assert await other.recv() == data_to_any(bytes(100))
    assert await other.recv() is None
