"""Bytes over a stream of messages, as containerd's transfers send them (containerd.types.transfer.Data, WindowUpdate).

    reader                          writer
    WindowUpdate(64 KiB)    ->      may send so much
                            <-      Data, 32 KiB at most each, while leave is left
    WindowUpdate(64 KiB)    ->      whenever less than 64 KiB of leave is out
                            <-      the end of the stream is the end of the bytes

So the reader holds at most two windows, however slow its user is. There is no word for an error: a writer that fails
gives its stream up, and what was written is told apart from a whole by its form.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from portside.convert.transfer import data_from_any, data_to_any, window_from_any, window_to_any
from portside.core.streaming import Stream
from portside.core.transfer import Chunks
from portside.errors import Cancelled, PortsideError, ResourceExhausted

MAX_DATA = 32 << 10
"""Bytes in one message."""
WINDOW = 2 * MAX_DATA
"""Bytes of leave that a reader keeps out at least."""
SETTLE_SECONDS = 10.0
"""For a reader to take what it was sent before the stream ends under it."""


async def read_bytes(stream: Stream, what: str) -> AsyncIterator[bytes]:
    """What the other end writes, to its end. The caller closes the stream.

    Cancelled if the other end is lost; InvalidArgument for messages of another kind; ResourceExhausted if it sends
    more than it has leave to.
    """
    leave = 0
    while True:
        if leave < WINDOW:
            leave += WINDOW
            try:
                await stream.send(window_to_any(WINDOW))
            except Cancelled:
                pass  # it has ended, perhaps well: what it sent before is still to be had
        message = await stream.recv()
        if message is None:
            return
        data = data_from_any(message, what)
        leave -= len(data)
        if leave < 0:
            raise ResourceExhausted(f"{what}: the other end sends more than it has leave to")
        yield data


class ByteWriter:
    """The writing end. ``close`` when all is written; the caller closes the stream in any case."""

    def __init__(self, stream: Stream, what: str) -> None:
        self._stream, self._what = stream, what
        self._leave = 0
        self._changed = asyncio.Event()
        self._error: PortsideError | None = None
        self._listening = asyncio.create_task(self._listen(), name=f"leave to write {what}")

    async def write(self, data: bytes) -> None:
        """Send all of ``data``; waits while the reader gives no leave. Cancelled if it is gone."""
        view = memoryview(data)
        while view:
            while self._leave <= 0:
                await self._news()
            size = min(len(view), MAX_DATA, self._leave)
            self._leave -= size
            await self._stream.send(data_to_any(bytes(view[:size])))
            view = view[size:]

    async def close(self) -> None:
        """All is written. Returns when the reader has taken it but for a rest, or has gone, or takes too long.

        Clients of containerd's end when their call does, without waiting for the end of the stream; by then little
        must be on the way.
        """
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._leave < WINDOW:
                    await self._news()
        except (TimeoutError, PortsideError):
            pass
        finally:
            await self.stop()
        await self._stream.end()

    async def stop(self) -> None:
        """Write no more; a second time does nothing."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._changed.clear()
        await self._changed.wait()

    async def _listen(self) -> None:
        try:
            while (message := await self._stream.recv()) is not None:
                self._leave += max(0, window_from_any(message, self._what))
                self._changed.set()
            raise Cancelled(f"{self._what}: nobody reads any more")
        except PortsideError as error:
            self._error = error
            self._changed.set()


async def write_bytes(stream: Stream, chunks: Chunks, what: str) -> None:
    """All of ``chunks``, then the end. The caller closes the stream."""
    writer = ByteWriter(stream, what)
    try:
        async for chunk in chunks:
            await writer.write(chunk)
        await stream.end()
    finally:
        await writer.stop()
