"""One connection of the gRPC server: events of HTTP/2 become calls, results of handlers become frames.

The way of a unary call whose handler answers from memory (``Method.inline``): HEADERS makes a ServerCall, DATA with
END_STREAM runs the handler on the spot, head, message and trailers are one buffer, and all answers to one piece of
input leave in one ``sendmsg``. All other handlers run in a task of their own, which ends when the client resets the
stream, the deadline passes or the connection is lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from portside import errors
from portside.wire import status
from portside.wire.grpc.call import Head, ServerCall, undecodable
from portside.wire.grpc.link import Link
from portside.wire.grpc.protocol import (
    ACCEPT_ENCODING,
    CONTENT_TYPE,
    PREFIX,
    MessageReader,
    encode_message,
    encode_metadata,
    frame,
    frame_compressed,
)
from portside.wire.grpc.service import Framed
from portside.wire.http2.connection import H2Connection
from portside.wire.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR, LocalProtocolError
from portside.wire.http2.events import (
    ConnectionFailed,
    DataReceived,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    StreamWritable,
)
from portside.wire.http2.hpack import encode

if TYPE_CHECKING:
    from portside.wire.grpc.server import GrpcServer
    from portside.wire.http2.hpack import Field

_log = logging.getLogger("portside.grpc")

_HEAD_FIELDS: list[Field] = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]
_HEAD = encode(_HEAD_FIELDS)
_OK_FIELDS: list[Field] = [(b"grpc-status", b"0")]
_OK = encode(_OK_FIELDS)
_BATCH = 64 << 10  # bytes that one handler may queue before they are written and others get their turn


class Connection:
    """Owns the socket and the calls of one client; ``server`` gives the methods and learns of the end."""

    def __init__(self, server: GrpcServer, sock: socket.socket) -> None:
        self.server = server
        self.limits = server.limits
        self.loop = asyncio.get_running_loop()
        self._methods = server.methods
        self._h2 = H2Connection(client=False, limits=self.limits.http2)
        self._calls: dict[int, ServerCall] = {}
        self._blocked: set[ServerCall] = set()  # whose handlers wait for the socket
        self._max_message_size = self.limits.max_message_size
        self._assembling = 0
        self._batch = 0  # bytes queued by handlers since the last flush
        self._busy = False  # within _on_data, which flushes at its end
        self._flush_due = False
        self._draining = False
        self._link = Link(self.loop, sock, self._on_data, self._on_lost, self._on_drained)
        self._handshake: asyncio.TimerHandle | None = self.loop.call_later(self.limits.handshake_timeout, self.close)

    def start(self) -> None:
        """Greet the client; once the server knows of us, since a client that has gone already ends us here."""
        self.flush()

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
            fields = _HEAD_FIELDS + extra + _status_fields(status.code_of(error), str(error))
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

    # Handlers

    def _start(self, call: ServerCall, message: tuple[int, bytes] | None) -> None:
        """Run the handler: at once if it is inline, else in a task."""
        method = call.method
        try:
            request = call.requests() if message is None else call.parse(message)
            if method.inline and not method.server_streaming:
                self._run_inline(call, method.handler(request, call))
                return
        except Exception as error:
            self.fail(call, error)
            return
        run = self._run_streaming(call, request) if method.server_streaming else self._run(call, request)
        self._spawn(call, run)

    def _run_inline(self, call: ServerCall, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Drive the handler by hand; one that waits after all goes on in a task."""
        try:
            waits_for = coroutine.send(None)
        except StopIteration as stop:
            self._answer(call, stop.value)
        else:
            self._spawn(call, self._run_rest(call, coroutine, waits_for))

    async def _run_rest(self, call: ServerCall, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        try:
            response = await _resume(coroutine, waits_for)
        except Exception as error:
            self.fail(call, error)
        else:
            self._answer(call, response)

    async def _run(self, call: ServerCall, request: Any) -> None:
        try:
            response = await call.method.handler(request, call)
        except Exception as error:
            self.fail(call, error)
        else:
            self._answer(call, response)

    async def _run_streaming(self, call: ServerCall, request: Any) -> None:
        stream: AsyncIterator[Any] = call.method.handler(request, call)
        try:
            try:
                async for item in stream:
                    await self._send_item(call, item)
            finally:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()
        except Exception as error:
            self.fail(call, error)
        else:
            self._finish(call)

    def _spawn(self, call: ServerCall, coroutine: Coroutine[Any, Any, None]) -> None:
        call.task = task = self.loop.create_task(coroutine, name=call.method.path)
        self.server.tasks.add(task)
        task.add_done_callback(partial(self._on_task_done, call))

    def _on_task_done(self, call: ServerCall, task: asyncio.Task[None]) -> None:
        """A task ends by ``_answer``, ``fail`` or ``_finish``, or is cancelled, perhaps for reasons of its own."""
        self.server.tasks.discard(task)
        if task.cancelled():
            self.fail(call, errors.Cancelled("the handler was cancelled"))
        elif task.exception() is not None:
            _log.error("%s: answering failed", task.get_name(), exc_info=task.exception())

    def _abandon(self, call: ServerCall) -> None:
        """Nobody waits for the answer any more."""
        self._remove(call)
        if call.task is not None and call.task is not asyncio.current_task(self.loop):
            call.task.cancel()

    def _remove(self, call: ServerCall) -> None:
        if call.done:
            return
        call.done = True
        self._calls.pop(call.stream_id, None)
        if call.reader is not None:
            self._assembling -= call.reader.held
        if call.timer is not None:
            call.timer.cancel()

    def _end_calls(self) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        for call in list(self._calls.values()):
            self._abandon(call)

    # What goes out

    def _answer(self, call: ServerCall, response: Any) -> None:
        """The unary answer and its status."""
        if call.done or not self._h2.is_open(call.stream_id):
            self._remove(call)
            return
        try:
            payload = call.method.response.SerializeToString(response)
        except Exception as error:
            self.fail(call, error)
            return
        if call.headers is None and call.trailers is None and not call.compressed and call.ended:
            self._remove(call)
            self._h2.send_response(call.stream_id, _HEAD, PREFIX.pack(0, len(payload)) + payload, _OK)
            if not self._busy:
                self.flush_soon()
            return
        try:
            self._send_head(call)
        except errors.InvalidArgument as error:
            self.fail(call, error)
            return
        self._h2.send_data(call.stream_id, frame_compressed(payload) if call.compressed else frame(payload))
        self._finish(call)

    def _send_head(self, call: ServerCall) -> None:
        """The head of the answer, before its first message."""
        if call.head_sent:
            return
        fields = encode_metadata(call.headers) if call.headers else []
        if call.compressed:
            fields.append((b"grpc-encoding", b"gzip"))
        call.head_sent = True
        self._h2.send_headers(call.stream_id, _HEAD_FIELDS + fields if fields else _HEAD)

    async def _send_item(self, call: ServerCall, item: Any) -> None:
        """One message of a streamed answer; returns when there is room for the next."""
        if call.done:
            raise errors.Cancelled("nobody waits for the answer any more")
        self._send_head(call)
        if item.__class__ is Framed:
            size = item.size
            sent = self._h2.send_data(call.stream_id, PREFIX.pack(0, size), *item.buffers)
        else:
            payload = call.method.response.SerializeToString(item)
            size = len(payload)
            if call.compressed:
                sent = self._h2.send_data(call.stream_id, frame_compressed(payload))
            else:
                sent = self._h2.send_data(call.stream_id, PREFIX.pack(0, size), payload)
        self._batch += size + 5
        if sent and self._batch < _BATCH:
            self.flush_soon()
            return
        self.flush()
        if not self._must_wait(call):
            await asyncio.sleep(0)  # a handler that never waits must not keep the others from running
        while self._must_wait(call):
            call.room = self.loop.create_future()
            self._blocked.add(call)
            try:
                await call.room
            finally:
                call.room = None
                self._blocked.discard(call)

    def _must_wait(self, call: ServerCall) -> bool:
        return not call.done and (self._link.backlog > self.limits.write_high or self._h2.waiting(call.stream_id) > 0)

    def _finish(self, call: ServerCall, code: int = 0, message: str = "") -> None:
        """Send the status; the call is over."""
        if call.done or not self._h2.is_open(call.stream_id):
            self._remove(call)
            return
        trailers = _OK_FIELDS if not code else _status_fields(code, message)
        try:
            if not code:
                self._send_head(call)
            if call.trailers:
                trailers = trailers + encode_metadata(call.trailers)
            if not call.head_sent:
                trailers = _HEAD_FIELDS + (encode_metadata(call.headers) if call.headers else []) + trailers
        except errors.PortsideError as error:  # metadata that cannot be sent
            call.headers = call.trailers = None
            self._finish(call, status.code_of(error), str(error))
            return
        self._remove(call)
        self._h2.send_headers(call.stream_id, trailers, True)
        if not call.ended and not self._h2.waiting(call.stream_id):
            self._h2.reset_stream(call.stream_id, NO_ERROR)  # RFC 9113, section 8.1: the rest is not needed
        if not self._busy:
            self.flush_soon()

    def fail(self, call: ServerCall, error: Exception) -> None:
        """The status for ``error``; a handler that still runs is cancelled. What nobody raised on purpose is logged."""
        if call.done:
            if not isinstance(error, errors.PortsideError | LocalProtocolError):
                _log.error("%s failed after its call was over", call.method.path, exc_info=error)
            return
        if isinstance(error, errors.PortsideError):
            text = str(error)
        else:
            text = str(error) or type(error).__name__
            _log.error("%s failed", call.method.path, exc_info=error)
        self._finish(call, status.code_of(error), text)
        if call.task is not None and call.task is not asyncio.current_task(self.loop):
            call.task.cancel()

    def flush_soon(self) -> None:
        """Write what is queued once all that is ready to run has run."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        """Write what is queued, and stop reading from a client that does not take it."""
        self._batch = 0
        buffers = self._h2.buffers_to_send()
        if buffers:
            self._link.write(buffers)
            if self._link.backlog > self.limits.max_backlog:
                self._link.pause_reading()
        if self._draining:
            self._close_if_drained()

    # The end

    def drain(self) -> None:
        """Let no new calls come; the connection closes after the last."""
        self._draining = True
        self._h2.drain()
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


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine that has been started already and waits for what it yielded, ``waits_for``."""
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            step: Callable[[Any], Any] = coroutine.throw
            argument: Any = error
        else:
            step = coroutine.send
            argument = value
        try:
            waits_for = step(argument)
        except StopIteration as stop:
            return stop.value


def _status_fields(code: int, message: str) -> list[Field]:
    fields: list[Field] = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", encode_message(message)))
    return fields
