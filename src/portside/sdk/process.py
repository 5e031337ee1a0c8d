"""A process with its streams as the library shows it: a container's first one, or one made by exec."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from portside.client.fifos import Fifos
from portside.client.signals import SIGKILL, parse_signal
from portside.client.streams import InputStream, OutputStream
from portside.client.wait import wait_process
from portside.core.services import Services
from portside.core.tasks import Exit
from portside.errors import FailedPrecondition, NotFound, PortsideError

SETTLE_SECONDS = 2.0
"""How long output may go on after the exit, if a child of the process holds the stream; then it is closed."""


class Streams:
    """Our ends of a process's fifos; made before it, closed with it."""

    def __init__(self, base: str, *, stdin: bool, terminal: bool) -> None:
        self.fifos = Fifos(base, stdin=stdin, terminal=terminal)
        try:
            self.stdout = OutputStream(self.fifos.stdout)
            self.stderr = OutputStream(self.fifos.stderr)
            self.stdin = InputStream(self.fifos.stdin) if stdin else None
        except BaseException:
            self.fifos.remove()
            raise

    def connected(self) -> None:
        """The process has started: the other side has all fifos open and their names are not needed any more."""
        if self.stdin is not None:
            self.stdin.opened()

    def close(self) -> None:
        """Close our ends and remove the fifos."""
        self.stdout.close()
        self.stderr.close()
        if self.stdin is not None:
            self.stdin.close()
        self.fifos.remove()


class Input:
    """Standard input of a process; it was asked for with ``stdin=True``."""

    def __init__(self, services: Services, container_id: str, exec_id: str, stream: InputStream | None) -> None:
        self._services, self._container_id, self._exec_id = services, container_id, exec_id
        self._stream = stream

    async def write(self, data: bytes | str) -> None:
        """Hand over all of it; waits while the process does not read. Unavailable if it reads no more."""
        await self._open().write(data.encode() if isinstance(data, str) else data)

    async def close(self) -> None:
        """End of input; a second time does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
            try:
                await self._services.tasks.close_io(self._container_id, self._exec_id)
            except NotFound:
                return

    def _open(self) -> InputStream:
        if self._stream is None:
            raise FailedPrecondition("standard input: closed, or not asked for (stdin=True)")
        return self._stream


class Process:
    """What tasks and execs have in common."""

    def __init__(self, services: Services, container_id: str, exec_id: str, streams: Streams | None) -> None:
        self._services, self._container_id, self._exec_id = services, container_id, exec_id
        self._streams = streams
        self._exit: Exit | None = None
        self.stdin = Input(services, container_id, exec_id, streams.stdin if streams else None)

    @property
    def stdout(self) -> OutputStream:
        """Output as it comes: ``async for chunk in task.stdout``. FailedPrecondition if it is not attached."""
        return self._attached().stdout

    @property
    def stderr(self) -> OutputStream:
        """The same for standard error; empty with a terminal, where both are one."""
        return self._attached().stderr

    @property
    def returncode(self) -> int | None:
        """The exit status if the end has been seen (``wait``), else None."""
        return self._exit.status if self._exit else None

    async def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit status, or 128 + the signal. TimeoutError after ``timeout`` seconds.

        Output that nobody reads meanwhile does not hold the process up: its oldest bytes are dropped beyond 1 MiB.
        """
        if self._exit is None and self._streams is not None:
            self._streams.stdout.drain()
            self._streams.stderr.drain()
        async with asyncio.timeout(timeout):
            return (await self._ended()).status

    async def output(self, *, check: bool = False) -> bytes:
        """All of standard output, once the process has ended; standard error is read too and kept for ``stderr``.

        With ``check``, an exit status other than 0 is FailedPrecondition that tells the end of standard error.
        """
        streams = self._attached()
        streams.stderr.drain()
        (data,) = await self._read(streams.stdout)
        status = await self.wait()
        if check and status:
            (told,) = await self._read(streams.stderr)
            errors = told.decode(errors="replace").strip()
            raise FailedPrecondition(f"process exited with status {status}" + (f": {errors[-500:]}" if errors else ""))
        return data

    async def communicate(self, input: bytes | str | None = None) -> tuple[bytes, bytes]:
        """Write ``input``, end the input, read both outputs to their end and wait; as ``subprocess`` does."""
        streams = self._attached()

        async def feed() -> None:
            if input is not None:
                try:
                    await self.stdin.write(input)
                except PortsideError:
                    # It does not read all of it; what it wrote still counts.
                    pass
            await self.stdin.close()

        feeding = asyncio.ensure_future(feed())
        try:
            stdout, stderr = await self._read(streams.stdout, streams.stderr)
            return stdout, stderr
        finally:
            # What the process has not read by its end it never will.
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def lines(self) -> AsyncIterator[str]:
        """Lines of standard output as text, without their newline."""
        async for line in self._attached().stdout.lines():
            yield line.decode(errors="replace")

    async def kill(self, signal: int | str = SIGKILL) -> None:
        """Send a signal; that it has ended already is fine."""
        number = signal if isinstance(signal, int) else parse_signal(signal)
        try:
            await self._services.tasks.kill(self._container_id, number, self._exec_id)
        except NotFound:
            return

    async def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal how large the window is."""
        await self._services.tasks.resize(self._container_id, columns, rows, self._exec_id)

    async def _ended(self) -> Exit:
        if self._exit is None:
            self._exit = await wait_process(self._services, self._container_id, self._exec_id)
        return self._exit

    async def _read(self, *streams: OutputStream) -> list[bytes]:
        """All of ``streams``, until they end or the process has and nothing comes of what still holds them."""
        reading = asyncio.gather(*(stream.read() for stream in streams))
        ending = asyncio.ensure_future(self._ended())
        try:
            either: list[asyncio.Future[Any]] = [reading, ending]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            await ending
            await asyncio.wait(either, timeout=SETTLE_SECONDS)
            if not reading.done():
                for stream in streams:
                    stream.close()
            return await reading
        finally:
            ending.cancel()
            reading.cancel()

    def _attached(self) -> Streams:
        if self._streams is None:
            raise FailedPrecondition("streams: not attached (it was started with detach=True, or by somebody else)")
        return self._streams

    def _close_streams(self) -> None:
        if self._streams is not None:
            self._streams.close()


class ExecProcess(Process):
    """A further process in a container. Removed when its ``async with`` block ends, or by ``remove``."""

    @property
    def id(self) -> str:
        """The exec's id."""
        return self._exec_id

    async def pid(self) -> int:
        """Its number on the server's machine."""
        return (await self._services.tasks.get(self._container_id, self._exec_id)).pid

    async def remove(self) -> None:
        """Kill it if it runs and forget it; a second time does nothing."""
        try:
            if self._exit is None:
                await self.kill()
                await self._services.tasks.wait(self._container_id, self._exec_id)
            await self._services.tasks.delete(self._container_id, self._exec_id)
        except NotFound:
            pass
        finally:
            self._close_streams()
