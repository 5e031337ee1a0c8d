"""Spans of calls for OpenTelemetry, by the standard environment variables; the extra ``otel`` brings the SDK.

Nothing of it is imported unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set, as
containerd has it. The SDK reads the variables itself: endpoint, headers, protocol, sampler, service name (``portside``
unless said), attributes, limits, propagators. A client's ``traceparent`` in the metadata of a call makes its span the
parent of ours. Names and attributes are those of OpenTelemetry's conventions for gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from portside.daemon.grpc_metrics import code_of
from portside.errors import FailedPrecondition, InvalidArgument
from portside.version import __version__
from portside.wire.grpc.service import Call, Method

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "portside"
FLUSH_TIMEOUT = 3.0
"""Seconds that the last spans get at the end."""
_OURS = frozenset((2, 4, 12, 13, 14, 15))
"""Status codes that say of a server that it failed: Unknown, DeadlineExceeded, Unimplemented, Internal …"""


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environment.get(name) for name in ENDPOINTS)


class Tracing:
    """Makes spans of calls; a thread of the SDK sends them. ``from_environment`` makes one, ``close`` ends it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("portside", __version__)

    @classmethod
    def from_environment(cls) -> Tracing | None:
        """None unless asked for; FailedPrecondition if the extra is not installed; InvalidArgument."""
        if not wanted():
            return None
        try:
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise FailedPrecondition(f"traces: {error}; pip install 'portside[otel]'") from error
        said = OTELResourceDetector().detect().attributes
        attributes = {"service.version": __version__}
        if not said.get("service.name"):
            attributes["service.name"] = SERVICE
        provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_exporter()))
        return cls(provider)

    def wrap(self, methods: Iterable[Method]) -> list[Method]:
        """The same methods, each call a span. Each runs in a task of its own, since spans live in contexts."""
        return [replace(method, handler=self._handler(method), inline=False) for method in methods]

    async def close(self) -> None:
        """Send what is left, for ``FLUSH_TIMEOUT`` at most."""
        loop = asyncio.get_running_loop()
        flushed = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(flushed.set)
            except RuntimeError:
                return  # the loop has not waited

        # A thread that the end of the process does not wait for: the SDK tries again and again where nobody listens.
        threading.Thread(target=flush, name="last spans", daemon=True).start()
        try:
            await asyncio.wait_for(flushed.wait(), FLUSH_TIMEOUT)
        except TimeoutError:
            log.warning("traces: the last spans could not be sent within %g s", FLUSH_TIMEOUT)

    def _handler(self, method: Method) -> Callable[[Any, Call], Any]:
        return self._streaming(method) if method.server_streaming else self._unary(method)

    def _unary(self, method: Method) -> Callable[[Any, Call], Awaitable[Any]]:
        inner, path = method.handler, method.path

        async def handler(request: Any, call: Call) -> Any:
            with self._span(path, call):
                return await inner(request, call)

        return handler

    def _streaming(self, method: Method) -> Callable[[Any, Call], AsyncIterator[Any]]:
        inner, path = method.handler, method.path

        async def handler(request: Any, call: Call) -> AsyncIterator[Any]:
            with self._span(path, call):
                stream = inner(request, call)
                try:
                    async for item in stream:
                        yield item
                finally:
                    close = getattr(stream, "aclose", None)
                    if close is not None:
                        await close()

        return handler

    @contextmanager
    def _span(self, path: str, call: Call) -> Iterator[None]:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        carrier = {key: value for key, value in call.metadata.items() if isinstance(value, str)}
        service, _, name = path[1:].partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        if namespace := carrier.get("containerd-namespace"):
            attributes["containerd.namespace"] = namespace
        with self._tracer.start_as_current_span(
            path[1:], context=extract(carrier), kind=SpanKind.SERVER, attributes=attributes,
            record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield
            except BaseException as error:
                code = code_of(error, call)
                span.set_attribute("rpc.grpc.status_code", code)
                if code in _OURS:
                    span.set_status(StatusCode.ERROR, str(error))
                raise
            span.set_attribute("rpc.grpc.status_code", 0)


def _exporter() -> Any:
    """OTLP over HTTP, or over gRPC if the environment says so and its package is there."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if not protocol or protocol == "http/protobuf":
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise FailedPrecondition(f"traces: {error}; pip install 'portside[otel]'") from error
        return OTLPSpanExporter()
    if protocol == "grpc":
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
        except ImportError as error:
            hint = "pip install opentelemetry-exporter-otlp-proto-grpc"
            raise FailedPrecondition(f"traces over grpc: {error}; {hint}") from error
        return GrpcExporter()
    raise InvalidArgument(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: want http/protobuf or grpc")
