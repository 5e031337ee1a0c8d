"""The shim's side of its socket: ttrpc on the loop, with answers that may come later.

What does not belong here: the protocol (``wire/ttrpc/connection.py``) and what the calls mean (``service.py``). A peer
that breaks the protocol hurts its own connection at most; one that does not read its answers is not read either.
"""

from __future__ import annotations

import _socket
import errno
import os
from struct import unpack

from portside.errors import PortsideError, from_oserror
from portside.shim.frozen import NotQuiet
from portside.shim.loop import READ, WRITE
from portside.wire.ttrpc.connection import Closed, Request, TtrpcConnection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.loop import Loop

    Handler = Callable[["Call"], None]

MAX_CONNECTIONS: Final = 128
"""Peers at once; further ones wait in the listener's queue."""
SCARCE_PAUSE: Final = 0.5
"""Seconds until peers are accepted again after descriptors or memory ran out."""
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
MAX_UNREAD: Final = 1 << 20
"""Bytes of answers that a peer may leave unread before we stop reading its requests."""
READ_SIZE: Final = 64 << 10


class Call:
    """One request, to be answered once: by ``respond`` or by ``fail``, now or later."""

    _connection: Connection | Nobody
    __slots__ = ("_connection", "_stream_id", "method", "payload", "service")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._stream_id = request.stream_id
        self.service = request.service
        self.method = request.method
        self.payload = request.payload

    def respond(self, payload: bytes) -> None:
        """Answer; dropped if the peer is gone."""
        self._connection.respond(self._stream_id, payload)

    def fail(self, error: BaseException) -> None:
        """Answer with an error; one of the kernel gets the meaning that ``errors.py`` gives it."""
        if isinstance(error, OSError) and not isinstance(error, PortsideError):
            error = from_oserror(error, f"{self.method.lower()}")
        self._connection.fail(self._stream_id, error)

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``: where to answer, which is all that a call which waits still needs."""
        return {"peer": ice.peers.get(id(self._connection), -1), "stream": self._stream_id}

    @classmethod
    def thaw(cls, ice: Thawing, values: Values) -> Call:
        """The call that was frozen; one whose peer had gone answers into nothing."""
        call = cls.__new__(cls)
        call._connection = ice.peers[values["peer"]] if values["peer"] >= 0 else Nobody()
        call._stream_id = values["stream"]
        call.service = call.method = ""
        call.payload = b""
        return call


class Nobody:
    """A peer that has gone."""

    def respond(self, _stream_id: int, _payload: bytes) -> None:
        """Drop it."""

    def fail(self, _stream_id: int, _error: BaseException) -> None:
        """Drop it."""


class Server:
    """Accepts on ``listener`` (owned from now on) and hands each call to ``handler``."""

    __slots__ = ("_handler", "_listener", "_loop", "connections")

    def __init__(self, loop: Loop, listener: _socket.socket, handler: Handler) -> None:
        self._loop = loop
        self._listener = listener
        self._handler = handler
        self.connections: set[Connection] = set()
        """The peers there are."""
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._accept)

    def _accept(self, _ready: int) -> None:
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in _SCARCE:  # It would stay ready, and the loop would spin.
                self._loop.forget(self._listener.fileno())
                self._loop.later(SCARCE_PAUSE, self._listen)
            return  # else the peer has gone again
        peer = _socket.socket(fileno=fd)
        _pid, uid, _gid = unpack("3i", peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            peer.close()
            return
        peer.setblocking(False)
        self.connections.add(Connection(self._loop, peer, self))
        if len(self.connections) >= MAX_CONNECTIONS:
            self._loop.forget(self._listener.fileno())

    def call(self, call: Call) -> None:
        """A peer called; what the handler raises is the answer."""
        try:
            self._handler(call)
        except Exception as error:
            call.fail(error)
            if not isinstance(error, (PortsideError, OSError)):
                self._loop.on_error(error)

    def lost(self, connection: Connection) -> None:
        """A peer is gone."""
        self.connections.discard(connection)
        self._listen()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0 and len(self.connections) < MAX_CONNECTIONS:
            self._loop.watch(self._listener.fileno(), READ, self._accept)

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``; a peer in the middle of a message is not quiet. The listener is the keeper's."""
        peers: list[Values] = []
        for connection in self.connections:
            ice.peers[id(connection)] = len(peers)
            peers.append(connection.freeze(ice))
        return {"peers": peers}

    def thaw(self, ice: Thawing, values: Values) -> None:
        """The peers that were frozen."""
        for peer in values["peers"]:
            connection = Connection.thaw(self._loop, self, ice, peer)
            ice.peers.append(connection)
            self.connections.add(connection)

    @property
    def unsent(self) -> bool:
        """Whether an answer has not been taken by the kernel yet."""
        return any(connection.unsent for connection in self.connections)

    def close(self) -> None:
        """Stop listening and drop all peers."""
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for connection in list(self.connections):
            connection.close()


class Connection:
    """One peer of the shim."""

    __slots__ = ("_loop", "_out", "_protocol", "_server", "_socket")

    def __init__(self, loop: Loop, peer: _socket.socket, server: Server) -> None:
        self._loop = loop
        self._socket = peer
        self._server = server
        self._protocol = TtrpcConnection(client=False)
        self._out = b""
        loop.watch(peer.fileno(), READ, self._ready)

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``."""
        if self._out or self._protocol.pending:
            raise NotQuiet
        return {"fd": ice.put(self._socket.fileno(), watch=READ), "protocol": self._protocol.save()}

    @classmethod
    def thaw(cls, loop: Loop, server: Server, ice: Thawing, values: Values) -> Connection:
        """The peer that was frozen."""
        connection = cls(loop, _socket.socket(fileno=ice.take(values["fd"])), server)
        connection._protocol.restore(values["protocol"])
        return connection

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the peer to read."""
        return bool(self._out)

    def respond(self, stream_id: int, payload: bytes) -> None:
        """Answer a call."""
        self._protocol.respond(stream_id, payload)
        self._flush()

    def fail(self, stream_id: int, error: BaseException) -> None:
        """Answer a call with an error."""
        self._protocol.fail(stream_id, error)
        self._flush()

    def close(self) -> None:
        """Drop the peer; calls that are not answered yet are answered into nothing."""
        fd = self._socket.fileno()
        if fd >= 0:
            self._loop.forget(fd)
            self._socket.close()
            self._protocol.receive(b"")
            self._out = b""
            self._server.lost(self)

    def _ready(self, ready: int) -> None:
        if ready & WRITE:
            self._flush()
        if ready & ~WRITE and len(self._out) < MAX_UNREAD:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for event in self._protocol.receive(data):
            if isinstance(event, Request):
                self._server.call(Call(self, event))
            elif isinstance(event, Closed):
                self.close()
                return
        self._flush()

    def _flush(self) -> None:
        out = self._out + self._protocol.take()
        fd = self._socket.fileno()
        if fd < 0:
            return
        had = bool(self._out)
        try:
            while out:
                out = out[self._socket.send(out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._out = out
        if out or had:
            events = (WRITE if out else 0) | (READ if len(out) < MAX_UNREAD else 0)
            self._loop.watch(fd, events, self._ready)
