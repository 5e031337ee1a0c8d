"""What the gRPC server does, counted: the methods of a table wrapped, and the figures under containerd's names.

The names are those of go-grpc-middleware's Prometheus provider, which containerd uses: started, handled by code,
messages received and sent, and, if wanted, how long calls take. Methods that do not exist are not counted, nor requests
that cannot be decoded, as there. A call costs a few counters; without ``[metrics]`` nothing is wrapped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from portside.daemon.exposition import Exposition, Histogram, label_text
from portside.wire import status
from portside.wire.grpc.service import Call, Method

CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
"""Of gRPC by their numbers, as Go spells them."""
_CANCELLED, _DEADLINE = 1, 4

Clock = Callable[[], float]


class GrpcMetrics:
    """The figures of one server. ``wrap`` gives the methods that it is to serve."""

    def __init__(self, *, histogram: bool = False, clock: Clock = time.perf_counter) -> None:
        self._histogram = histogram
        self._clock = clock
        self._methods: list[_Counts] = []

    def wrap(self, methods: Iterable[Method]) -> list[Method]:
        """The same methods, counting."""
        return [self._wrapped(method) for method in methods]

    def _wrapped(self, method: Method) -> Method:
        counts = _Counts(method, self._clock, Histogram() if self._histogram else None)
        self._methods.append(counts)
        handler = _streaming(method, counts) if method.server_streaming else _unary(method, counts)
        return replace(method, handler=handler)

    def collect(self, out: Exposition) -> None:
        """Write all figures."""
        for counts in self._methods:
            out.counter("grpc_server_started", _STARTED, counts.started, counts.labels)
        for counts in self._methods:
            for code, labels in enumerate(counts.code_labels):
                out.counter("grpc_server_handled", _HANDLED, counts.handled[code], labels)
        for counts in self._methods:
            out.counter("grpc_server_msg_received", _RECEIVED, counts.received, counts.labels)
        for counts in self._methods:
            out.counter("grpc_server_msg_sent", _SENT, counts.sent, counts.labels)
        for counts in self._methods:
            if counts.histogram is not None:
                out.histogram("grpc_server_handling_seconds", _HANDLING, counts.histogram, counts.labels)


_STARTED = "Total number of RPCs started on the server."
_HANDLED = "Total number of RPCs completed on the server, regardless of success or failure."
_RECEIVED = "Total number of RPC stream messages received on the server."
_SENT = "Total number of gRPC stream messages sent by the server."
_HANDLING = "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server."


class _Counts:
    """The figures of one method."""

    __slots__ = ("clock", "code_labels", "handled", "histogram", "labels", "received", "sent", "started")

    def __init__(self, method: Method, clock: Clock, histogram: Histogram | None) -> None:
        self.started = self.received = self.sent = 0
        self.handled = [0] * len(CODES)
        self.clock, self.histogram = clock, histogram
        _, service, name = method.path.split("/")
        labels = {"grpc_method": name, "grpc_service": service, "grpc_type": type_of(method)}
        self.labels = label_text(labels)
        self.code_labels = [label_text({"grpc_code": code, **labels}) for code in CODES]

    def ended(self, code: int, began: float) -> None:
        self.handled[code] += 1
        if self.histogram is not None:
            self.histogram.observe(self.clock() - began)


def type_of(method: Method) -> str:
    """As the label ``grpc_type`` has it."""
    if method.client_streaming:
        return "bidi_stream" if method.server_streaming else "client_stream"
    return "server_stream" if method.server_streaming else "unary"


def code_of(error: BaseException, call: Call) -> int:
    """The status that a call ends with: of a handler that is cancelled, why it is."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        deadline = call.deadline
        late = deadline is not None and asyncio.get_running_loop().time() >= deadline
        return _DEADLINE if late else _CANCELLED
    return status.code_of(error)


def _unary(method: Method, counts: _Counts) -> Callable[[Any, Call], Awaitable[Any]]:
    inner, streams = method.handler, method.client_streaming

    async def handler(request: Any, call: Call) -> Any:
        counts.started += 1
        if streams:
            request = _received(request, counts)
        else:
            counts.received += 1
        began = counts.clock()
        try:
            answer = await inner(request, call)
        except BaseException as error:
            counts.ended(code_of(error, call), began)
            raise
        counts.sent += 1
        counts.ended(0, began)
        return answer

    return handler


def _streaming(method: Method, counts: _Counts) -> Callable[[Any, Call], AsyncIterator[Any]]:
    inner, streams = method.handler, method.client_streaming

    async def handler(request: Any, call: Call) -> AsyncIterator[Any]:
        counts.started += 1
        if streams:
            request = _received(request, counts)
        else:
            counts.received += 1
        began = counts.clock()
        stream = inner(request, call)
        try:
            try:
                async for item in stream:
                    counts.sent += 1
                    yield item
            finally:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()
        except BaseException as error:
            counts.ended(code_of(error, call), began)
            raise
        counts.ended(0, began)

    return handler


async def _received(requests: AsyncIterator[Any], counts: _Counts) -> AsyncIterator[Any]:
    async for request in requests:
        counts.received += 1
        yield request
