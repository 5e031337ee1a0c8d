"""Our ends of the fifos between us and a process (``client/fifos.py``), read and written on the event loop.

A reader here never waits for its user to read on: it stops taking bytes at ``HIGH_WATER`` and the process waits,
as with any pipe, unless nobody is going to read (``drain``), when the oldest bytes go.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator

from portside.errors import Unavailable

HIGH_WATER = 1 << 20
"""Bytes kept for a reader that is slower than the process."""
CHUNK = 64 << 10


class OutputStream:
    """One output of a process, as it comes. Iterate over it, or ``read`` all; one user at a time."""

    def __init__(self, path: str = "") -> None:
        """Opens the fifo for reading, which must be done before the process is made; no path: an empty stream."""
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if path else -1
        self._buffer = bytearray()
        self._reading = False
        self._draining = False
        self._changed = asyncio.Event()
        self.dropped = 0
        """Bytes that nobody read while the process was waited for."""
        self._resume()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self.read_some():
            yield chunk

    async def read_some(self) -> bytes:
        """What has come since the last call, waiting for something; empty at the end."""
        while not self._buffer:
            if self._fd < 0:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        self._resume()
        return data

    async def read(self) -> bytes:
        """Everything up to the end."""
        return b"".join([chunk async for chunk in self])

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines without their newline; the last one even without."""
        rest = b""
        async for chunk in self:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    def drain(self) -> None:
        """Nobody may be going to read: keep the process from waiting, dropping the oldest bytes beyond the limit."""
        self._draining = True
        self._resume()

    def close(self) -> None:
        """Read no more; the process gets SIGPIPE or EPIPE if it writes on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self._reading:
                asyncio.get_running_loop().remove_reader(fd)
                self._reading = False
            os.close(fd)
        self._changed.set()

    def _resume(self) -> None:
        if self._fd >= 0 and not self._reading and (self._draining or len(self._buffer) < HIGH_WATER):
            asyncio.get_running_loop().add_reader(self._fd, self._readable)
            self._reading = True

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._buffer += data
        excess = len(self._buffer) - HIGH_WATER
        if self._draining:
            if excess > 0:
                del self._buffer[:excess]
                self.dropped += excess
        elif excess >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._reading = False
        self._changed.set()


class InputStream:
    """The input of a process."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Held open for reading as well until the shim has its end: a fifo without a reader cannot be opened to write.
        self._keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def opened(self) -> None:
        """The other side has it open now: from here on, its going away is an error of writing."""
        keeper, self._keeper = self._keeper, -1
        if keeper >= 0:
            os.close(keeper)

    async def write(self, data: bytes) -> None:
        """Hand over all of ``data``; waits while the process does not read. Unavailable if it does not any more."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise Unavailable("standard input: closed")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                raise Unavailable("standard input: the process does not read any more") from error

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            if self._fd >= 0:
                loop.remove_writer(self._fd)

    def close(self) -> None:
        """End of input, once the server has been told too (``Tasks.CloseIO``)."""
        self.opened()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                asyncio.get_running_loop().remove_writer(fd)
            except RuntimeError:
                pass
            os.close(fd)
