"""A download's bytes in order, over as many connections as pay: one for what is small or fast, several for what is
neither.

Many registries and their stores give each connection a share, however fast the line is. So the first ``SEGMENT`` of a
large blob is asked for as a range and timed. Who answers with the whole instead knows no ranges, and is read to the
end. Who is fast goes on alone, since more connections would only cost both sides. Otherwise the rest comes in
segments, several at a time, held in memory until it is their turn; how many is bounded for all downloads together.

Here is asyncio; the blocking part is ``download``, run by ``submit`` in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portside.registry.download import Download

SEGMENT = 8 << 20
WORTH_IT = 4 * SEGMENT
"""Blobs from this size on are asked for in ranges."""
MAX_SEGMENTS = 8
"""Segments in memory at once, of all downloads of one Registry."""
_PART = 1 << 20

Submit = Callable[..., "Future[Any]"]


def first_end(size: int, offset: int, connections: int) -> int:
    """Up to where the first request should go."""
    return offset + SEGMENT if connections > 1 and size - offset >= WORTH_IT else size


async def parts_of(
    first: Download, submit: Submit, slots: asyncio.Semaphore, connections: int, fast_enough: float
) -> AsyncGenerator[bytes, None]:
    """Everything from ``first`` (started) to the end of the blob, in parts of up to 1 MiB.

    ``fast_enough`` is in bytes per second. Closing the iterator lets go of all connections.
    """
    began, size = time.monotonic(), 0
    async with aclosing(_one(first, submit)) as parts:
        async for part in parts:
            size += len(part)
            yield part
    if first.end == first.size:
        return
    if size >= fast_enough * (time.monotonic() - began):
        rest = _one(first.part(first.end, first.size), submit)
    else:
        rest = _several(first, submit, slots, connections)
    async with aclosing(rest):
        async for part in rest:
            yield part


async def _one(download: Download, submit: Submit) -> AsyncGenerator[bytes, None]:
    """One connection, one part ahead of whoever takes them."""
    following = submit(download.read)
    try:
        while data := await asyncio.wrap_future(following):
            following = submit(download.read)
            yield data
    finally:
        following.add_done_callback(lambda _: download.close())


async def _several(
    first: Download, submit: Submit, slots: asyncio.Semaphore, connections: int
) -> AsyncGenerator[bytes, None]:
    running: deque[Future[bytes]] = deque()
    offset = first.end
    try:
        while running or offset < first.size:
            # The first of ours may wait for a slot; further ones only take what is free.
            while offset < first.size and len(running) < connections and not (running and slots.locked()):
                await slots.acquire()
                end = min(offset + SEGMENT, first.size)
                running.append(submit(first.part(offset, end).read_all))
                offset = end
            data = await asyncio.wrap_future(running[0])
            running.popleft()
            slots.release()
            for at in range(0, len(data), _PART):
                yield data[at : at + _PART]
    finally:
        for future in running:
            future.cancel()
            slots.release()
