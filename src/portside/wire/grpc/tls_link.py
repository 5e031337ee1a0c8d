"""TLS over a ``Link``: the same interface, with plain bytes on our side and records on the peer's.

An ``SSLObject`` on memory buffers does the work, so it runs on any loop that a ``Link`` runs on; asyncio's own way
would be a transport, with its copies and its own flow control. Nothing here has a deadline: whoever makes one gives a
connection so long to show that it speaks HTTP/2, the handshake included.

    link       handshake      open            lost
    read       records in     records in,     nothing
                              bytes to us
    written    kept           records out     dropped
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from portside.errors import InvalidArgument
from portside.wire.grpc.link import Buffer, Link

_log = logging.getLogger("portside.grpc")
_CHUNK = 256 << 10
_FAREWELL = 1.0
"""Seconds for a peer to read why its handshake failed."""
ALPN = "h2"


def server_context(cert: str, key: str, ca: str = "") -> ssl.SSLContext:
    """For a server with a certificate, in files of PEM; with ``ca`` a client must show one that it has signed.

    InvalidArgument names the file that cannot be used. TLS 1.2 and later, HTTP/2 alone.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    # Every connection shows its certificate: a ticket would be good for longer than that may be.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"TLS certificate {cert} with key {key or cert}: {error}") from error
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"TLS certificates of authorities {ca}: {error}") from error
    return context


class TlsLink:
    """Owns ``sock`` until ``close``; see ``Link`` for what the callbacks are told and when."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[OSError | None], None],
        on_drained: Callable[[], None],
        context: ssl.SSLContext,
    ) -> None:
        self._on_data, self._on_lost, self._on_drained = on_data, on_lost, on_drained
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._open = False
        self._linger: float | None = None
        self._waiting: list[Buffer] = []
        self._link = Link(loop, sock, self._received, self._lost, self._drained)

    @property
    def backlog(self) -> int:
        """Bytes written and not yet taken by the socket."""
        return self._link.backlog + (sum(map(len, self._waiting)) if self._waiting else 0)

    @property
    def closed(self) -> bool:
        """Whether the socket has been given back to the kernel."""
        return self._link.closed

    @property
    def socket(self) -> socket.socket:
        """The socket, to ask it things."""
        return self._link.socket

    def write(self, buffers: list[Buffer]) -> None:
        """Send these, now as far as the socket takes them; once the handshake is done, if it is not."""
        if self._link.closed or self._linger is not None:
            return
        if not self._open:
            self._waiting += [bytes(buffer) for buffer in buffers]
            return
        try:
            for buffer in buffers:
                if len(buffer):
                    self._tls.write(buffer)
        except ssl.SSLError as error:
            self._broken(error)
            return
        self._send()

    def pause_reading(self) -> None:
        """Leave what comes in the kernel, until ``resume_reading``."""
        self._link.pause_reading()

    def resume_reading(self) -> None:
        """Undo ``pause_reading``."""
        self._link.resume_reading()

    def finish(self, linger: float) -> None:
        """Close gracefully: what was written goes out, then the notice that nothing follows; see ``Link.finish``."""
        if self._link.closed or self._linger is not None:
            return
        self._linger = linger
        if self._open:
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # wants the peer's notice, which nobody waits for
                pass
            self._send()
        self._link.finish(linger)

    def close(self) -> None:
        """Close now; what was not sent is lost. May be called again."""
        self._waiting.clear()
        self._link.close()

    def _received(self, records: bytes) -> None:
        self._incoming.write(records)
        try:
            if not self._open:
                self._shake_hands()
            while not self._link.closed and self._linger is None:
                data = self._tls.read(_CHUNK)
                if not data:  # the peer's notice that nothing follows
                    self._end(None)
                    return
                self._on_data(data)
        except ssl.SSLWantReadError:
            self._send()
        except ssl.SSLZeroReturnError:
            self._end(None)
        except ssl.SSLError as error:
            self._broken(error)

    def _shake_hands(self) -> None:
        self._tls.do_handshake()
        self._open = True
        self._send()
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.write(waiting)

    def _send(self) -> None:
        if self._outgoing.pending and not self._link.closed:
            self._link.write([self._outgoing.read()])

    def _broken(self, error: ssl.SSLError) -> None:
        """The peer does not keep to TLS, or shows no certificate that we trust: it is told, then it is gone."""
        _log.info("a connection ends: TLS: %s", error.reason or error)
        self._linger = _FAREWELL
        self._waiting.clear()
        self._send()
        self._link.finish(_FAREWELL)

    def _end(self, error: OSError | None) -> None:
        if not self._link.closed:
            self._link.close()
            self._on_lost(error)

    def _lost(self, error: OSError | None) -> None:
        self._waiting.clear()
        self._on_lost(error)

    def _drained(self) -> None:
        self._on_drained()
