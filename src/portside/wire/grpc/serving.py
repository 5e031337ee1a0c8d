"""One connection of the gRPC server: events of HTTP/2 become calls. How these are answered is in ``answering.py``.

The way of a unary call whose handler answers from memory (``Method.inline``): HEADERS makes a ServerCall, DATA with
END_STREAM runs the handler on the spot, head, message and trailers are one buffer, and all answers to one piece of
input leave in one ``sendmsg``. All other handlers run in a task of their own, which ends when the client resets the
stream, the deadline passes or the connection is lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING

from portside import errors
from portside.wire import status
from portside.wire.grpc.answering import HEAD_FIELDS, Answering, status_fields
from portside.wire.grpc.call import Head, ServerCall, undecodable
from portside.wire.grpc.link import Link
from portside.wire.grpc.protocol import (
    ACCEPT_ENCODING,
    PREFIX,
    MessageReader,
)
from portside.wire.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR
from portside.wire.http2.events import (
    ConnectionFailed,
    DataReceived,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    StreamWritable,
)

if TYPE_CHECKING:
    import ssl

    from portside.wire.grpc.server import GrpcServer
    from portside.wire.grpc.tls_link import TlsLink

_log = logging.getLogger("portside.grpc")


class Connection(Answering):
    """Owns the socket and the calls of one client; ``server`` gives the methods and learns of the end."""

    def __init__(self, server: GrpcServer, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(server)
        self._methods = server.methods
        self._max_message_size = self.limits.max_message_size
        self._draining = False
        self._link: Link | TlsLink
        if tls is None:
            self._link = Link(self.loop, sock, self._on_data, self._on_lost, self._on_drained)
        else:
            from portside.wire.grpc.tls_link import TlsLink

            self._link = TlsLink(self.loop, sock, self._on_data, self._on_lost, self._on_drained, tls)
        self._handshake: asyncio.TimerHandle | None = self.loop.call_later(self.limits.handshake_timeout, self.close)

    def start(self) -> None:
        """Greet the client; once the server knows of us, since a client that has gone already ends us here."""
        self.flush()

    @property
    def open_calls(self) -> int:
        """How many calls have not been answered."""
        return len(self._calls)

    @property
    def socket(self) -> socket.socket:
        """The socket, to ask it for the credentials of the peer."""
        return self._link.socket

    # What comes in

    def _on_data(self, data: bytes) -> None:
        self._busy = True
        try:
            self._take(data)
        except Exception:
            _log.exception("a connection ends: a defect of ours")
            self._h2.close(INTERNAL_ERROR)
            self._end_gracefully()
        self._busy = False
        # Go's clients send a PING after each answer: alone, its acknowledgement would cost both sides a wakeup.
        if self._h2.has_only_pongs:
            self._flush_patiently()
        else:
            self.flush()

    def _take(self, data: bytes) -> None:
        calls = self._calls
        for event in self._h2.receive_data(data):
            kind = event.__class__
            if kind is HeadersReceived:
                self._on_headers(event)  # type: ignore[arg-type]
            elif kind is DataReceived:
                call = calls.get(event.stream_id)
                if call is not None:
                    self._on_content(call, event)  # type: ignore[arg-type]
            elif kind is StreamReset:
                self._on_reset(event.stream_id)
            elif kind is StreamWritable:
                self._on_writable(event.stream_id)
            elif kind is SettingsReceived:
                if self._handshake is not None:
                    self._handshake.cancel()
                    self._handshake = None
            elif kind is ConnectionFailed:
                assert isinstance(event, ConnectionFailed)
                _log.info("a connection ends: the client broke a rule of HTTP/2: %s", event.error)
                self._end_gracefully()

    def _on_headers(self, event: HeadersReceived) -> None:
        stream_id = event.stream_id
        if event.trailers:  # a client has none to send in gRPC; they end its side all the same
            call = self._calls.get(stream_id)
            if call is not None:
                self._on_end(call)
            return
        head = event.headers.memo
        if head is None:
            head = event.headers.memo = Head(event.headers, self._methods)
        method = head.method
        if head.refusal is not None or head.http_status is not None or self._h2.unsent > self.limits.max_unsent:
            self._refuse(stream_id, head)
            return
        call = self._calls[stream_id] = ServerCall(self, stream_id, head, method)
        if head.timeout is not None:
            call.deadline = self.loop.time() + head.timeout
            call.timer = self.loop.call_at(call.deadline, self._on_deadline, call)
        if method.client_streaming:
            call.messages = deque()
            call.ended = event.end_stream
            self._start(call, None)
        elif event.end_stream:
            self._on_end(call)

    def _refuse(self, stream_id: int, head: Head) -> None:
        """Answer a request that no handler gets."""
        if not self._h2.is_open(stream_id):  # reset by what came behind it
            return
        if head.http_status is not None:
            self._h2.send_headers(stream_id, [(b":status", head.http_status)], True)
        else:
            error = head.refusal or errors.ResourceExhausted("the client does not read the answers to its calls")
            extra = [ACCEPT_ENCODING] if isinstance(error, errors.Unimplemented) else []
            fields = HEAD_FIELDS + extra + status_fields(status.code_of(error), str(error))
            self._h2.send_headers(stream_id, fields, True)
        self._h2.reset_stream(stream_id, NO_ERROR)  # where the client has more to say

    def _on_content(self, call: ServerCall, event: DataReceived) -> None:
        data = event.data
        if event.end_stream and call.reader is None and call.messages is None and len(data) > 4:
            flag, length = PREFIX.unpack_from(data)
            if length == len(data) - 5 and flag < 2 and length <= self._max_message_size:
                call.ended = True
                method = call.method
                if flag or not method.inline or method.server_streaming:
                    self._start(call, (flag, data[5:]))
                    return
                # The way of nearly all calls: _start for one plain message, without its detours.
                try:
                    try:
                        request = method.request.FromString(data[5:])
                    except Exception as error:
                        raise undecodable(method, error) from error
                    coroutine = method.handler(request, call)
                    waits_for = coroutine.send(None)
                except StopIteration as stop:
                    self._answer(call, stop.value)
                except Exception as error:
                    self.fail(call, error)
                else:
                    self._spawn(call, self._run_rest(call, coroutine, waits_for))
                return
        self._assemble(call, event)

    def _assemble(self, call: ServerCall, event: DataReceived) -> None:
        """Content that is not just one whole request."""
        reader = call.reader
        if reader is None:
            reader = call.reader = MessageReader(self.limits.max_message_size)
        held = reader.held
        try:
            messages = reader.feed(event.data)
            self._assembling += reader.held - held
            if self._assembling > self.limits.max_assembling:
                raise errors.ResourceExhausted("the incomplete messages of this connection are too large")
            if call.messages is None:
                self._keep_request(call, messages)
        except errors.PortsideError as error:
            self.fail(call, error)
            return
        call.unacknowledged += event.size
        if call.messages is None or not (call.messages or messages):
            self.acknowledge(call)
        elif messages:
            call.messages.extend(messages)
            call.wake()
        if event.end_stream:
            self._on_end(call)

    def _keep_request(self, call: ServerCall, messages: list[tuple[int, bytes]]) -> None:
        """The one request of a call that does not stream, until the client has ended its side."""
        for message in messages:
            if call.message is not None:
                raise errors.Unimplemented(f"{call.method.path} takes one request, and more came")
            call.message = message

    def _on_end(self, call: ServerCall) -> None:
        """The client has ended its side."""
        call.ended = True
        if call.reader is not None and call.reader.held:
            self.fail(call, errors.Internal("the last message is truncated"))
        elif call.messages is not None:
            call.wake()
        elif call.message is None:
            self.fail(call, errors.Unimplemented(f"{call.method.path} takes one request, and none came"))
        else:
            self._start(call, call.message)

    def acknowledge(self, call: ServerCall) -> None:
        """All that has come for ``call`` is with its handler, or is needed to complete a message: credit for more."""
        size, call.unacknowledged = call.unacknowledged, 0
        if size and not call.done:
            self._h2.acknowledge(call.stream_id, size)
            if not self._busy:
                self.flush_soon()

    def _on_reset(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None:
            self._abandon(call)
        self._close_if_drained()

    def _on_writable(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None:
            call.wake_writer()
        else:  # the status has gone too; what else the client sends is of no use
            self._h2.reset_stream(stream_id, NO_ERROR)
            self._close_if_drained()

    def _on_deadline(self, call: ServerCall) -> None:
        if self._h2.waiting(call.stream_id):  # a status behind that would never arrive
            self._h2.reset_stream(call.stream_id, CANCEL)
            self._abandon(call)
        else:
            self.fail(call, errors.DeadlineExceeded("the deadline of the call has passed"))
        self.flush_soon()

    def _on_lost(self, error: OSError | None) -> None:
        self._end_calls()
        self.server.forget(self)

    def _on_drained(self) -> None:
        """The socket has taken everything."""
        self._link.resume_reading()
        for call in list(self._blocked):
            call.wake_writer()

    def _end_calls(self) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        for call in list(self._calls.values()):
            self._abandon(call)

    # The end

    def drain(self) -> None:
        """Let no new calls come; the connection closes after the last. Endless calls are told to try elsewhere."""
        self._draining = True
        self._h2.drain()
        for call in [call for call in self._calls.values() if call.endless]:
            self.fail(call, errors.Unavailable("the server is ending"))
        self.flush()

    def _close_if_drained(self) -> None:
        if self._draining and self._h2.drained and not self._link.closed:
            self._end_gracefully()

    def _end_gracefully(self) -> None:
        """Close once the client has been told why, or soon if it does not listen."""
        self._end_calls()
        self._link.write(self._h2.buffers_to_send())
        self._link.finish(self.limits.linger)

    def close(self) -> None:
        """End now: calls are cancelled, the client gets a GOAWAY if its socket takes it."""
        self._h2.close()
        self._end_calls()
        self._link.write(self._h2.buffers_to_send())
        self._link.close()
        self.server.forget(self)
