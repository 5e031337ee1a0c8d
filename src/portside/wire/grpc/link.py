"""A connected stream socket on an asyncio loop: received bytes out, buffers in, nothing copied that need not be.

asyncio's own transports copy what cannot be sent at once and, before Python 3.12, join lists of buffers; a message of a
megabyte in frames of 16 kB is what this server writes all day. So this talks to the socket itself, through
``loop.add_reader``, which asyncio and uvloop both have. It knows nothing of HTTP/2.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice

_SMALL = 64 << 10
_LARGE = 256 << 10
_MOST_BUFFERS = 1000  # IOV_MAX is 1024

Buffer = bytes | bytearray | memoryview


class Link:
    """Owns ``sock`` (connected, made non-blocking here) until ``close``.

    ``on_data`` gets each piece received, never empty. ``on_lost`` is called once, with the error or None, when the peer
    has closed, the socket failed, or ``finish`` is complete; not after ``close``. ``on_drained`` is
    called when the socket has taken a backlog.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[OSError | None], None],
        on_drained: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._on_data = on_data
        self._on_lost = on_lost
        self._on_drained = on_drained
        self._pending: deque[Buffer] = deque()
        self._size = _SMALL
        self._closing = False
        self._reading = True
        self._deadline: asyncio.TimerHandle | None = None
        self.backlog = 0
        """Bytes written and not yet taken by the socket."""
        loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        """Whether the socket has been given back to the kernel."""
        return self._fd < 0

    @property
    def socket(self) -> socket.socket:
        """The socket, to ask it things (credentials of the peer)."""
        return self._sock

    def _readable(self) -> None:
        try:
            data = self._sock.recv(self._size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._lose(None)
            return
        if self._closing:
            return
        self._size = _LARGE if len(data) == self._size else _SMALL
        self._on_data(data)

    def write(self, buffers: list[Buffer]) -> None:
        """Send these, now as far as the socket takes them. They must not change until ``backlog`` is 0."""
        if self._fd < 0 or self._closing:
            return
        if len(buffers) == 1 and not self._pending:  # most answers are one buffer, and go at once
            try:
                sent = self._sock.send(buffers[0])
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(buffers[0]):
                return
            buffers = [memoryview(buffers[0])[sent:]]
        if self._pending:
            for buffer in buffers:
                self._pending.append(buffer)
                self.backlog += len(buffer)
            return
        self._pending.extend(buffers)
        self.backlog = sum(map(len, self._pending))
        if self._send() and self._pending:
            self._loop.add_writer(self._fd, self._writable)

    def _send(self) -> bool:
        """Send until nothing is left or the socket is full; False if it is broken."""
        pending = self._pending
        sock = self._sock
        while pending:
            try:
                if len(pending) == 1:
                    sent = sock.send(pending[0])
                else:
                    sent = sock.sendmsg(islice(pending, _MOST_BUFFERS))
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as error:
                self._lose(error)
                return False
            self.backlog -= sent
            while sent:
                buffer = pending.popleft()
                if len(buffer) > sent:
                    pending.appendleft(memoryview(buffer)[sent:])
                    break
                sent -= len(buffer)
            while pending and not len(pending[0]):
                pending.popleft()
        return True

    def _writable(self) -> None:
        if not self._send() or self._pending:
            return
        self._loop.remove_writer(self._fd)
        if self._closing:
            self._shut_down()
        else:
            self._on_drained()

    def pause_reading(self) -> None:
        """Leave what comes in the kernel, until ``resume_reading``."""
        if self._reading and self._fd >= 0:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Undo ``pause_reading``."""
        if not self._reading and self._fd >= 0:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def finish(self, linger: float) -> None:
        """Close gracefully: what was written goes out, then only the sending side ends until the peer has closed too.

        What the peer still sends is dropped. A socket that is closed with unread input, or while its peer writes, can
        cost the peer our last words. After ``linger`` seconds it is closed in any case.
        """
        if self._fd < 0 or self._closing:
            return
        self._closing = True
        self._deadline = self._loop.call_later(linger, self._lose, None)
        self.resume_reading()
        if not self._pending:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        """Close now; what was not sent is lost. May be called again."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        if self._deadline is not None:
            self._deadline.cancel()
        self._pending.clear()
        self.backlog = 0
        self._sock.close()

    def _lose(self, error: OSError | None) -> None:
        self.close()
        self._on_lost(error)
