"""ttrpc over a unix socket for asyncio: the caller's side, which the daemon uses to talk to shims.

What does not belong here: the protocol (``connection.py``), and how a shim is found or started (``supervisor/``).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, cast

from portside.errors import DeadlineExceeded, PortsideError, Unavailable, from_oserror
from portside.wire.ttrpc.connection import Closed, Failed, Response, TtrpcConnection

CONNECT_TIMEOUT = 10.0
"""Seconds that a peer may take to accept: its queue may be full."""


class TtrpcClient(asyncio.Protocol):
    """A connection with any number of calls in flight. Whoever connects closes; it does not reconnect."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = TtrpcConnection(client=True)
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._writable: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, path: str | socket.socket, timeout: float = CONNECT_TIMEOUT) -> TtrpcClient:
        """Connect to the socket at ``path``, or take over a connected one. Unavailable, NotFound, PermissionDenied."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                if isinstance(path, socket.socket):
                    path.setblocking(False)
                    address = f"fd {path.fileno()}"
                    _, client = await loop.create_unix_connection(lambda: cls(address), sock=path)
                else:
                    address = path
                    _, client = await loop.create_unix_connection(lambda: cls(address), path)
        except TimeoutError:
            raise Unavailable(f"connect to {path}: nobody accepts within {timeout:g} s") from None
        except OSError as error:
            raise from_oserror(error, f"connect to {path}") from error
        return client

    async def call(
        self, service: str, method: str, payload: bytes, *, timeout: float, metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """The answer's payload, or the error that the peer answered with.

        ``timeout`` seconds are told to the peer and kept here: then DeadlineExceeded. Unavailable if the connection
        is or gets lost; whether the call had an effect is then unknown.
        """
        name = f"{service}/{method}"
        if timeout <= 0:
            raise DeadlineExceeded(f"{name}: no time left")
        transport = self._transport
        if transport is None or self._closed.done():
            raise Unavailable(f"{name}: connection to {self._address} is closed")
        timeout_ns = min(int(timeout * 1e9), (1 << 63) - 1)
        stream_id = self._connection.request(service, method, payload, timeout_ns=timeout_ns, metadata=metadata)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[stream_id] = answer
        transport.write(self._connection.take())
        timer = self._loop.call_later(timeout, self._expire, stream_id, name, timeout)
        try:
            while self._writable is not None and not answer.done():  # let a slow peer slow us down
                waiting: list[asyncio.Future[Any]] = [self._writable, answer]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return await answer
        finally:
            timer.cancel()
            if self._calls.pop(stream_id, None) is not None:
                self._connection.forget(stream_id)

    def _expire(self, stream_id: int, name: str, timeout: float) -> None:
        self._settle(stream_id, DeadlineExceeded(f"{name}: no answer from {self._address} within {timeout:g} s"))

    def _settle(self, stream_id: int, outcome: bytes | PortsideError) -> None:
        answer = self._calls.get(stream_id)
        if answer is None or answer.done():
            return
        if isinstance(outcome, PortsideError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closed.done()

    async def wait_closed(self) -> None:
        """Return when the connection is gone, whoever ended it: for a shim, that usually means that it ended."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """End the connection; calls in flight fail with Unavailable. A second time does nothing."""
        if self._transport is not None:
            self._transport.abort()
            await self.wait_closed()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # which uvloop's is no subclass of

    def data_received(self, data: bytes) -> None:
        """Hand each answer to its caller."""
        for event in self._connection.receive(data):
            if isinstance(event, Response):
                self._settle(event.stream_id, event.payload if event.error is None else event.error)
            elif isinstance(event, Failed):
                self._settle(event.stream_id, event.error)

    def eof_received(self) -> bool:
        """Nothing comes any more: let the transport close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all callers."""
        truncated = any(isinstance(event, Closed) and event.truncated for event in self._connection.receive(b""))
        reason = f"connection to {self._address} lost" + (" in the middle of an answer" if truncated else "")
        for stream_id in list(self._calls):
            self._settle(stream_id, Unavailable(f"{reason}: {exc}" if exc else reason))
        self.resume_writing()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
