"""ttrpc over a unix socket for asyncio: the answering side, on which shims forward their events to the daemon.

What does not belong here: the protocol (``connection.py``), the handlers, and the server inside a shim, which does
without asyncio (``shim/``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from portside.errors import DeadlineExceeded, PortsideError, Unimplemented, from_oserror
from portside.wire.ttrpc.connection import Failed, Request, TtrpcConnection

log = logging.getLogger(__name__)

Handler = Callable[[bytes, Mapping[str, str]], Awaitable[bytes]]
"""Gets the payload and the metadata of a unary call, gives the payload of its answer, raises errors of ours."""


class TtrpcServer:
    """Answers from ``handlers``, a table by service and method. Whoever starts it closes it."""

    def __init__(self, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self, path: str | socket.socket) -> None:
        """Listen on a socket that is ours alone at ``path`` (a stale one is replaced), or on a bound one."""
        loop = asyncio.get_running_loop()
        try:
            listener = path if isinstance(path, socket.socket) else _bind(path)
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listener)
        except OSError as error:
            raise from_oserror(error, f"listen on {path}") from error

    async def close(self) -> None:
        """Stop listening, cancel calls in progress and close their connections. A second time does nothing.

        The socket's path stays: it may be a successor's by now, who replaces it anyway.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.gather(*(connection.finished() for connection in list(self._connections)))
        await server.wait_closed()

    async def answer(self, request: Request) -> bytes:
        """The payload for ``request``, or an error to answer with."""
        handler = self._handlers.get((request.service, request.method))
        name = f"{request.service[:200]}/{request.method[:200]}"
        if handler is None or request.streaming:
            raise Unimplemented(f"method {name} is not served here")
        limit = request.timeout_ns / 1e9 if request.timeout_ns else None
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                return await handler(request.payload, request.metadata)
        except TimeoutError:
            if scope.expired():
                raise DeadlineExceeded(f"{name}: not done within {limit:g} s") from None
            raise

    def add(self, connection: _Connection) -> None:
        """A peer has connected."""
        self._connections.add(connection)

    def remove(self, connection: _Connection) -> None:
        """A peer is gone and none of its calls runs any more."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One peer: a task for each of its calls, all of which end with the connection."""

    def __init__(self, server: TtrpcServer) -> None:
        self._server = server
        self._connection = TtrpcConnection(client=False)
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # which uvloop's is no subclass of
        self._server.add(self)

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for event in self._connection.receive(data):
            if isinstance(event, Request):
                self._calls[event.stream_id] = loop.create_task(self._run(event))
            elif isinstance(event, Failed) and (call := self._calls.get(event.stream_id)):
                call.cancel()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.receive(b"")
        for call in self._calls.values():
            call.cancel()
        self._lost.set()
        self._maybe_done()

    def pause_writing(self) -> None:
        """A peer that does not read its answers gets no further calls in."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    async def finished(self) -> None:
        """Return when the peer is gone and its calls have ended."""
        await self._lost.wait()
        await asyncio.gather(*self._calls.values(), return_exceptions=True)

    async def _run(self, request: Request) -> None:
        try:
            self._connection.respond(request.stream_id, await self._server.answer(request))
        except PortsideError as error:
            self._connection.fail(request.stream_id, error)
        except Exception as error:
            log.exception("ttrpc: %s/%s failed", request.service, request.method)
            self._connection.fail(request.stream_id, error)
        finally:
            del self._calls[request.stream_id]
            self._maybe_done()
        self._flush()

    def _maybe_done(self) -> None:
        if self._lost.is_set() and not self._calls:
            self._server.remove(self)

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            data = self._connection.take()
            if data:
                self._transport.write(data)


def _bind(path: str) -> socket.socket:
    """A listening socket at ``path`` for our user alone: made under a private name, then renamed over a stale one."""
    private = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(private)
        os.chmod(private, 0o600)
        listener.listen(1024)
        os.rename(private, path)
    except OSError:
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(private)
        raise
    return listener
