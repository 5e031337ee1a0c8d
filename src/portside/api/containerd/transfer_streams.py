"""What a transfer asks and tells over streams: credentials, progress, requests and answers of registries.

A transfer waits for an answer to a question, with a limit; it never waits for who is told something.
"""

from __future__ import annotations

import asyncio

from portside.client.byte_streams import ByteWriter
from portside.convert.transfer import credentials_from_any, pack_any, progress_to_any
from portside.core.streaming import Stream
from portside.core.transfer import CredentialsCallback, Progress, RegistryCredentials
from portside.errors import Cancelled, PortsideError, Unavailable
from portside.wire.pb.containerd.types.transfer import registry_pb2

AUTH_SECONDS = 120.0
"""For a client to answer a question for credentials; it may have to ask a person."""
MAX_PENDING = 4096
"""Progress records kept for a reader who is slow; beyond it the oldest go."""
MAX_LOG = 1 << 20
"""Characters of requests and answers kept for a reader who is slow; beyond it what comes is left out."""
FLUSH_SECONDS = 2.0
"""For a reader to take what is left when the transfer has ended."""


def asker(stream: Stream) -> CredentialsCallback:
    """Ask for credentials over a stream, one question after the other; Unavailable if there is no answer."""
    one_at_a_time = asyncio.Lock()

    async def ask(host: str, reference: str) -> RegistryCredentials | None:
        async with one_at_a_time:
            try:
                async with asyncio.timeout(AUTH_SECONDS):
                    await stream.send(pack_any(registry_pb2.AuthRequest(host=host, reference=reference)))
                    answer = await stream.recv()
            except TimeoutError:
                raise Unavailable(f"credentials for {host}: no answer within {AUTH_SECONDS:.0f} s") from None
            except Cancelled as error:
                raise Unavailable(f"credentials for {host}: {error}") from error
        return None if answer is None else credentials_from_any(answer, f"credentials for {host}")

    return ask


class _Queue:
    """Something on its way to a client, sent by a task of its own; the caller closes it, and the stream after it."""

    def __init__(self, name: str) -> None:
        self._news, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name=name)

    async def close(self) -> None:
        """What is left goes to a reader who takes it soon."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            pass
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _wake(self) -> None:
        self._idle.clear()
        self._news.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await self._send()
                self._idle.set()
        except PortsideError:
            return  # nobody listens any more
        finally:
            self._idle.set()

    async def _send(self) -> None:
        """All that waits, until nothing does."""
        raise NotImplementedError


class ProgressQueue(_Queue):
    """Progress: of an object and event the newest record is kept."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pending: dict[tuple[str, str], Progress] = {}
        super().__init__("progress of a transfer")

    def put(self, progress: Progress) -> None:
        """Send it when its turn comes."""
        if self._task.done():
            return
        if len(self._pending) >= MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self._pending[progress.name, progress.event] = progress
        self._wake()

    async def _send(self) -> None:
        while self._pending:
            await self._stream.send(progress_to_any(self._pending.pop(next(iter(self._pending)))))


class LogQueue(_Queue):
    """Text."""

    def __init__(self, stream: Stream) -> None:
        self._writer = ByteWriter(stream, "log stream")
        self._pending: list[str] = []
        self._size = 0
        super().__init__("log of a transfer")

    def put(self, text: str) -> None:
        """Send it when its turn comes."""
        if self._task.done() or self._size >= MAX_LOG:
            return
        self._pending.append(text)
        self._size += len(text)
        self._wake()

    async def close(self) -> None:
        """What is left goes to a reader who takes it soon."""
        await super().close()
        await self._writer.stop()

    async def _send(self) -> None:
        while self._pending:
            data = "".join(self._pending).encode()
            self._pending.clear()
            self._size = 0
            await self._writer.write(data)
