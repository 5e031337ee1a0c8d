"""The gRPC server: a table of methods, listening sockets, connections, and their orderly end.

It runs on the running asyncio (or uvloop) loop and starts no threads. Connections are the matter of ``serving.py``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from portside import errors
from portside.wire.grpc.limits import ServerLimits
from portside.wire.grpc.service import Method
from portside.wire.grpc.serving import Connection

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger("portside.grpc")
_DEFAULTS = ServerLimits()
_BACKLOG = 1024
_CREDENTIALS = struct.Struct("3i")
_ACCEPTS_AT_ONCE = 64
_PAUSE_WITHOUT_DESCRIPTORS = 0.5
_OUT_OF = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class GrpcServer:
    """Serves ``methods`` on any number of listening sockets.

    Use: ``listen_unix`` or ``listen``, any time; in the end ``await drain(seconds)`` or ``close()``; all on one loop.
    Handlers raise ``portside.errors``; any other exception is logged and answered Unknown with its text. A handler is
    cancelled when the client resets the stream, the deadline passes or the connection is lost.
    """

    def __init__(self, methods: Iterable[Method], limits: ServerLimits = _DEFAULTS) -> None:
        self.methods = {method.path.encode("ascii"): method for method in methods}
        """By path; read by connections."""
        self.limits = limits
        self.tasks: set[asyncio.Task[None]] = set()
        """Of handlers that run; owned here so that none is lost."""
        self._connections: set[Connection] = set()
        self._remote = 0  # of them not on unix sockets
        self._listeners: dict[socket.socket, tuple[str, int, int] | None] = {}
        self._tls: dict[socket.socket, ssl.SSLContext] = {}
        self._resume: dict[socket.socket, asyncio.TimerHandle] = {}
        self._empty: asyncio.Future[None] | None = None

    async def listen_unix(self, path: str | os.PathLike[str], mode: int = 0o660) -> None:
        """Listen on a unix socket with these permissions, also from before the first connection can be made.

        A socket that a dead process has left is replaced. AlreadyExists: somebody serves it, or ``path`` is no socket.
        The file is removed when the server ends.
        """
        name = os.fspath(path)
        _remove_stale(name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(name)
            os.chmod(name, mode)  # connections are refused until listen()
            made = os.stat(name)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise errors.from_oserror(error, f"listen on {name}") from error
        self._serve(listener, (name, made.st_dev, made.st_ino))

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a socket that listens already (socket activation, TCP); the server closes it.

        ``tls`` (``tls_link.server_context``): TLS is spoken on it, and nothing else.
        """
        self._serve(listener, None, tls)

    def _serve(
        self, listener: socket.socket, file: tuple[str, int, int] | None, tls: ssl.SSLContext | None = None
    ) -> None:
        listener.setblocking(False)
        self._listeners[listener] = file
        if tls is not None:
            self._tls[listener] = tls
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                _log.error("cannot accept a connection: %s", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener.fileno())
                self._resume[listener] = loop.call_later(
                    _PAUSE_WITHOUT_DESCRIPTORS, loop.add_reader, listener.fileno(), self._accept, listener
                )
                return
            remote = sock.family != socket.AF_UNIX
            # Strangers on the network must not keep out the users of this machine.
            room = self.limits.max_connections // 2 - self._remote if remote else 1
            if len(self._connections) >= self.limits.max_connections or room < 1:
                sock.close()
                continue
            if remote:
                self._remote += 1
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = Connection(self, sock, self._tls.get(listener))
            self._connections.add(connection)
            connection.start()

    def forget(self, connection: Connection) -> None:
        """For connections: this one is over."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._remote -= connection.socket.family != socket.AF_UNIX
        if not self._connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def statistics(self) -> dict[str, int]:
        """How much of what there is now: ``connections``, ``tasks``, ``listeners``."""
        return {"connections": len(self._connections), "tasks": len(self.tasks), "listeners": len(self._listeners)}

    def peers(self) -> list[dict[str, Any]]:
        """Who is connected: ``address``, ``pid`` of a peer on a unix socket, and how many ``calls`` of it are open."""
        return [{**_peer(connection.socket), "calls": connection.open_calls} for connection in list(self._connections)]

    def stop_listening(self) -> None:
        """Close the listening sockets and remove their files; connections live on."""
        loop = asyncio.get_running_loop()
        for listener, file in self._listeners.items():
            if listener in self._resume:
                self._resume.pop(listener).cancel()
            loop.remove_reader(listener.fileno())
            if file is not None:
                _remove_own(*file)
            listener.close()
        self._listeners.clear()
        self._tls.clear()

    async def drain(self, grace_seconds: float) -> None:
        """End gracefully: no new connections, GOAWAY to clients, calls in flight have ``grace_seconds`` to finish.

        Returns when all connections and handlers are over; what remained was cancelled as by ``close``.
        """
        self.stop_listening()
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            for connection in list(self._connections):
                connection.drain()
            if self._connections:
                await asyncio.wait([self._empty], timeout=grace_seconds)
        self.close()
        await self._wait_for_handlers()

    def close(self) -> None:
        """End now. Handlers are cancelled; those that take time for it can be awaited with ``drain(0)``."""
        self.stop_listening()
        for connection in list(self._connections):
            connection.close()

    async def _wait_for_handlers(self) -> None:
        others: set[asyncio.Task[Any]] = self.tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)


def _peer(sock: socket.socket) -> dict[str, Any]:
    try:
        if sock.family == socket.AF_UNIX:
            data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return {"address": sock.getsockname(), "pid": _CREDENTIALS.unpack(data)[0]}
        return {"address": "%s:%d" % sock.getpeername()[:2]}  # noqa: UP031
    except OSError:
        return {"address": ""}


def _remove_stale(path: str) -> None:
    """Remove a socket at ``path`` that nobody listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise errors.AlreadyExists(f"listen on {path}: there is a file which is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # Its queue is full: there is a queue.
        except OSError as error:
            raise errors.from_oserror(error, f"listen on {path}: try the socket that is there") from error
    raise errors.AlreadyExists(f"listen on {path}: another process serves it")


def _remove_own(path: str, device: int, inode: int) -> None:
    """Remove the file of a socket of ours, unless a successor has replaced it."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (device, inode):
            os.unlink(path)
    except FileNotFoundError:
        pass
