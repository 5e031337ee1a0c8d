"""Events on their way to the daemon: in order, kept until it says that it has them, sent again after it was away.

The daemon's waiters do not depend on this (they hold a Wait call); its subscribers do. An event carries a number in its
metadata, so that one which was received but not acknowledged when a connection broke is not told twice.

Source: containerd.services.events.ttrpc.v1.Events/Forward, which upstream's daemon serves too.
"""

from __future__ import annotations

import _socket
import os
import time

from portside.shim.frozen import NotQuiet
from portside.shim.loop import READ, WRITE, close_fd
from portside.shim.sockets import connectable
from portside.wire.codec import encode
from portside.wire.tables import containerd_events, google_protobuf
from portside.wire.tables.containerd_services_events_ttrpc_v1 import ForwardRequest
from portside.wire.ttrpc.connection import Closed, Failed, Response, TtrpcConnection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

    from portside.shim.frozen import Freezing, Values
    from portside.shim.loop import Loop, Timer

SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"
SEQUENCE_KEY: Final = "portside-event"
"""Metadata: ``<shim>:<number>``, numbers growing by one."""
NAMESPACE_KEY: Final = "containerd-namespace-ttrpc"
MAX_KEPT: Final = 8192
"""Events kept for a daemon that is away; beyond it the oldest are forgotten, and counted."""
MAX_UNREAD: Final = 1 << 20
"""Bytes on their way to a daemon that does not read; the rest waits as events."""
RETRY: Final = (0.02, 0.1, 0.5, 1.0, 2.0)
"""Seconds between attempts to reach the daemon; the last one repeats. Its first call to us ends the waiting."""


class Outbox:
    """The queue and its connection. ``on_idle`` is called whenever the last event has been acknowledged."""

    __slots__ = (
        "_address", "_attempt", "_connection", "_events", "_loop", "_namespace", "_next", "_out", "_sent",
        "_shim", "_socket", "_timer", "_unsent", "lost", "on_idle",
    )  # fmt: skip

    def __init__(self, loop: Loop, address: str, namespace: str) -> None:
        self._loop = loop
        self._address = address.removeprefix("unix://")
        self._namespace = namespace
        self._shim = f"{os.getpid()}.{time.monotonic_ns()}"
        self._next = 0
        self._events: dict[int, bytes] = {}
        self._sent: dict[int, int] = {}  # stream of the connection -> number of the event
        self._unsent = 0  # the number of the next event for this connection
        self._connection: TtrpcConnection | None = None
        self._socket: _socket.socket | None = None
        self._out = b""
        self._timer: Timer | None = None
        self._attempt = 0
        self.lost = 0
        """Events that were forgotten because the daemon stayed away too long."""
        self.on_idle: Callable[[], None] | None = None

    @property
    def idle(self) -> bool:
        """Whether the daemon has everything, or there is none to tell."""
        return not self._events

    def emit(self, topic: str, name: str, fields: Mapping[str, Any]) -> None:
        """Send ``containerd.events.<name>`` with ``fields`` under ``topic``."""
        if not self._address and self._connection is None:
            return
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        event = {"type_url": f"containerd.events.{name}", "value": encode(getattr(containerd_events, name), fields)}
        envelope = {
            "timestamp": {"seconds": seconds, "nanos": nanos},
            "namespace": self._namespace,
            "topic": topic,
            "event": event,
        }
        if len(self._events) >= MAX_KEPT:
            self._events.pop(next(iter(self._events)))
            self.lost += 1
        number = self._next
        self._next += 1
        self._events[number] = encode(ForwardRequest, {"envelope": envelope})
        if self._connection is not None:
            self._send_more()
        elif self._timer is None:
            self._connect()

    def retry(self) -> None:
        """The daemon shows signs of life: do not wait any longer."""
        if self._connection is None and self._events:
            self._connect()

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``; events that are not acknowledged are not quiet. The connection is made anew."""
        if self._events:
            raise NotQuiet
        return {"shim": self._shim, "next": self._next, "lost": self.lost}

    def thaw(self, values: Values) -> None:
        """Go on with the numbers."""
        self._shim, self._next, self.lost = values["shim"], values["next"], values["lost"]

    def close(self) -> None:
        """Drop the connection; what is not acknowledged is lost."""
        self._disconnect()
        if self._timer is not None:
            self._timer.cancel()

    def _connect(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        directory = -1
        try:
            path, directory = connectable(self._address)
            peer.connect(path)
        except OSError:
            peer.close()
            self._wait()
            return
        finally:
            close_fd(directory)
        self.attach(peer)

    def attach(self, peer: _socket.socket) -> None:
        """Send through ``peer``, which is connected, does not block, and is owned from now on."""
        self._socket, self._connection = peer, TtrpcConnection(client=True)
        self._loop.watch(peer.fileno(), READ, self._ready)
        self._unsent = next(iter(self._events), self._next)
        self._send_more()

    def _wait(self) -> None:
        delay = RETRY[min(self._attempt, len(RETRY) - 1)]
        self._attempt += 1
        self._timer = self._loop.later(delay, self._connect)

    def _send_more(self) -> None:
        """Send what the daemon has not had yet, as far as it reads and acknowledges."""
        room = MAX_UNREAD - len(self._out)
        while (
            self._connection is not None and room > 0 and self._unsent < self._next and len(self._sent) < MAX_KEPT
        ):  # fmt: skip
            event = self._events.get(self._unsent)
            if event is not None:  # not forgotten
                self._send(self._unsent)
                room -= len(event)
            self._unsent += 1
        self._flush()

    def _send(self, number: int) -> None:
        assert self._connection is not None
        metadata = {NAMESPACE_KEY: self._namespace, SEQUENCE_KEY: f"{self._shim}:{number}"}
        stream = self._connection.request(SERVICE, "Forward", self._events[number], metadata=metadata)
        self._sent[stream] = number

    def _flush(self) -> None:
        if self._socket is None or self._connection is None:
            return
        out = self._out + self._connection.take()
        had = bool(self._out)
        try:
            while out:
                out = out[self._socket.send(out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._lost_connection()
            return
        self._out = out
        if out or had:
            self._loop.watch(self._socket.fileno(), READ | WRITE if out else READ, self._ready)

    def _ready(self, ready: int) -> None:
        if ready & WRITE:
            self._flush()
            self._send_more()
        if self._socket is None or self._connection is None or not ready & ~WRITE:
            return
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for event in self._connection.receive(data):
            if isinstance(event, Closed):
                self._lost_connection()
                return
            if isinstance(event, (Response, Failed)):
                # An error is an answer too: the daemon does not want this event, and asking again changes nothing.
                self._attempt = 0
                self._events.pop(self._sent.pop(event.stream_id, -1), None)
        if self._unsent < self._next:
            self._send_more()
        if not self._events and self.on_idle is not None:
            self.on_idle()

    def _lost_connection(self) -> None:
        self._disconnect()
        if self._events and self._timer is None:
            self._wait()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
        self._socket = self._connection = None
        self._out = b""
        self._sent.clear()


def timestamp(nanoseconds: int) -> dict[str, int] | None:
    """Nanoseconds since 1970 as a google.protobuf.Timestamp; 0 is none."""
    if not nanoseconds:
        return None
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return {"seconds": seconds, "nanos": nanos}


def prepare() -> None:
    """Get the tables ready, in the zygote."""
    for name in ("TaskCreate", "TaskStart", "TaskExit", "TaskDelete", "TaskExecAdded", "TaskExecStarted", "TaskOOM"):
        getattr(containerd_events, name).prepare()
    ForwardRequest.prepare()
    google_protobuf.Empty.prepare()
