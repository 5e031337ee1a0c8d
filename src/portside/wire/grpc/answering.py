"""How handlers run and what they send: the answering half of a connection of the gRPC server (``serving.py``).

A handler that answers from memory is driven by hand; every other runs in a task, which ends with its call: when it has
answered, or when the client resets the stream, the deadline passes or the connection is lost.
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from portside import errors
from portside.wire import status
from portside.wire.grpc.call import ServerCall
from portside.wire.grpc.protocol import (
    CONTENT_TYPE,
    PREFIX,
    encode_message,
    encode_metadata,
    frame,
    frame_compressed,
)
from portside.wire.grpc.service import Framed
from portside.wire.http2.connection import H2Connection
from portside.wire.http2.errors import NO_ERROR, LocalProtocolError
from portside.wire.http2.hpack import encode

if TYPE_CHECKING:
    from portside.wire.grpc.link import Link
    from portside.wire.grpc.server import GrpcServer
    from portside.wire.grpc.tls_link import TlsLink
    from portside.wire.http2.hpack import Field

_log = logging.getLogger("portside.grpc")

HEAD_FIELDS: list[Field] = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]
_HEAD = encode(HEAD_FIELDS)
_OK_FIELDS: list[Field] = [(b"grpc-status", b"0")]
_OK = encode(_OK_FIELDS)
PATIENCE = 0.001
"""Seconds that acknowledgements of PING wait for an answer to go with."""
_BATCH = 64 << 10  # bytes that one handler may queue before they are written and others get their turn


class Answering:
    """State and methods of the answering half; ``Connection`` is the whole."""

    _link: Link | TlsLink

    def __init__(self, server: GrpcServer) -> None:
        self.server = server
        self.limits = server.limits
        self.loop = asyncio.get_running_loop()
        self._h2 = H2Connection(client=False, limits=self.limits.http2)
        self._calls: dict[int, ServerCall] = {}
        self._blocked: set[ServerCall] = set()  # whose handlers wait for the socket
        self._assembling = 0  # bytes of incomplete messages
        self._batch = 0  # bytes queued by handlers since the last flush
        self._busy = False  # input is being handled; it is flushed at its end
        self._flush_due = False
        self._pongs_due = False

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
        self._h2.send_headers(call.stream_id, HEAD_FIELDS + fields if fields else _HEAD)

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
        trailers = _OK_FIELDS if not code else status_fields(code, message)
        try:
            if not code:
                self._send_head(call)
            if call.trailers:
                trailers = trailers + encode_metadata(call.trailers)
            if not call.head_sent:
                trailers = HEAD_FIELDS + (encode_metadata(call.headers) if call.headers else []) + trailers
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

    def _flush_patiently(self) -> None:
        """Write what is queued a moment later, or with what else is written until then."""
        if not self._pongs_due:
            self._pongs_due = True
            self.loop.call_later(PATIENCE, self._flush_pongs)

    def _flush_pongs(self) -> None:
        self._pongs_due = False
        self.flush()

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
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        """For ``Connection``: something has been written."""


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


def status_fields(code: int, message: str) -> list[Field]:
    """The trailers that a status is."""
    fields: list[Field] = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", encode_message(message)))
    return fields
