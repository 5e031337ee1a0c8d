"""A verb that takes time as a stream of messages: what it tells on the way, then how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from portside.client.progress import Progress, ProgressCallback
from portside.wire.pb.portside.services.engine.v1 import engine_pb2 as pb

R = TypeVar("R")


async def with_progress(
    verb: Callable[[ProgressCallback], Awaitable[R]], finished: Callable[[R], pb.RunEvent]
) -> AsyncIterator[pb.RunEvent]:
    """Run ``verb`` and stream its progress; of an object only the newest record is kept for a reader who is slow.

    The verb ends with the stream: a caller who goes away cancels it.
    """
    news: dict[str, Progress] = {}
    wake = asyncio.Event()

    def tell(progress: Progress) -> None:
        news[progress.object] = progress
        wake.set()

    task = asyncio.ensure_future(verb(tell))
    task.add_done_callback(lambda _: wake.set())
    try:
        while True:
            await wake.wait()
            wake.clear()
            batch = list(news.values())
            news.clear()
            for progress in batch:
                yield pb.RunEvent(
                    progress=pb.Progress(
                        object=progress.object, stage=progress.stage, offset=progress.offset, total=progress.total
                    )
                )
            if task.done() and not news:
                yield finished(task.result())
                return
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
