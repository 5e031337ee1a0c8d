"""The loop thread of the synchronous face, and what ``run`` and ``exec`` return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from portside.sdk.pending import Pending
from portside.sdk.runner import LoopThread


async def count(closed: list[bool], limit: int) -> AsyncIterator[int]:
    try:
        for number in range(limit):
            await asyncio.sleep(0)
            yield number
    finally:
        closed.append(True)


def test_results_errors_and_threads() -> None:
    loop = LoopThread()
    try:

        async def where(fail: bool) -> str:
            if fail:
                raise KeyError("x")
            return threading.current_thread().name

        assert loop.run(where(False)) == "portside-loop"
        with pytest.raises(KeyError):
            loop.run(where(True))
    finally:
        loop.close()
    assert "portside-loop" not in [thread.name for thread in threading.enumerate()]


def test_iteration_ends_or_is_given_up() -> None:
    loop = LoopThread()
    closed: list[bool] = []
    assert list(loop.iterate(count(closed, 3))) == [0, 1, 2]
    numbers = loop.iterate(count(closed, 100))
    assert next(numbers) == 0
    numbers.close()  # type: ignore[attr-defined]
    assert closed == [True, True]
    loop.close()


def test_close_cancels_what_is_left() -> None:
    loop = LoopThread()
    seen: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(hang())
        await asyncio.sleep(0)
        return task

    task = loop.run(start())
    loop.close()
    assert task.cancelled()
    assert seen == ["cancelled"]


async def test_pending_awaited_or_entered() -> None:
    told: list[object] = []

    async def make(scoped: bool) -> str:
        told.append(scoped)
        return "made"

    async def dispose(made: str) -> None:
        told.append(made)

    assert await Pending(make, dispose) == "made"
    assert told == [False]
    with pytest.raises(ZeroDivisionError):
        async with Pending(make, dispose) as made:
            assert made == "made"
            raise ZeroDivisionError
    assert told == [False, True, "made"]


async def test_pending_that_cannot_be_made_is_not_disposed() -> None:
    async def make(scoped: bool) -> str:
        raise KeyError("x")

    async def dispose(made: str) -> None:
        pytest.fail("there is nothing to dispose of")

    with pytest.raises(KeyError):
        async with Pending(make, dispose):
            pass
