"""The same small service on three servers: grpcio's, grpc.aio's manner of it, and ours; messages are plain bytes.

What a method answers is told by the request, a JSON object: ``sizes`` of the answers, ``status`` to fail with, ``wait``
to hang until cancelled. ``Probe`` shows a test what the handlers saw.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc

from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Call, Method
from portside.wire.status import error_of

SERVICE = "/interop.Test/"
LIMIT = 16 << 20


class Raw(bytes):
    """A message class whose messages are their own bytes."""

    @classmethod
    def FromString(cls, data: bytes) -> Raw:
        return cls(data)

    def SerializeToString(self) -> bytes:
        return bytes(self)


class Probe:
    """What handlers have seen; used from the server's threads as well."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.sent = 0

    async def wait(self, event: threading.Event) -> None:
        """Return when ``event`` is set, without blocking the loop."""
        assert await asyncio.to_thread(event.wait, 20)


def script(request: bytes) -> dict[str, Any]:
    """What a request asks for; anything that is not JSON asks for an echo."""
    return json.loads(request) if request[:1] == b"{" else {}


# grpcio


class _Threaded:
    """The handlers as grpcio's synchronous server wants them."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def _echo(self, context: grpc.ServicerContext) -> None:
        pairs = context.invocation_metadata()
        context.send_initial_metadata([(key, value) for key, value in pairs if key == "x-echo-initial"])
        context.set_trailing_metadata([(key, value) for key, value in pairs if key == "x-echo-trailing-bin"])

    def _obey(self, asked: dict[str, Any], context: grpc.ServicerContext) -> None:
        if asked.get("wait"):
            self.probe.entered.set()
            context.add_callback(self.probe.cancelled.set)
            self.probe.cancelled.wait(30)
        if "status" in asked:
            code, message = asked["status"]
            context.abort(next(member for member in grpc.StatusCode if member.value[0] == code), message)

    def unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        asked = script(request)
        if asked.get("compress"):
            context.set_compression(grpc.Compression.Gzip)
        self._echo(context)
        self._obey(asked, context)
        return bytes(asked["sizes"][0]) if "sizes" in asked else request

    def server_stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        asked = script(request)
        if asked.get("compress"):
            context.set_compression(grpc.Compression.Gzip)
        for size in asked.get("sizes", []):
            self.probe.sent += 1
            yield bytes(size)
        self._obey(asked, context)

    def client_stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"%d" % sum(map(len, requests))

    def bidi(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            asked = script(request)
            self._obey(asked, context)
            if asked.get("end"):
                return
            yield bytes(asked["sizes"][0]) if "sizes" in asked else request


@asynccontextmanager
async def grpcio_server(address: str, probe: Probe, **options: Any) -> AsyncIterator[None]:
    """grpcio's server, its threads beside the loop."""
    handlers = _Threaded(probe)
    table = {
        "Unary": grpc.unary_unary_rpc_method_handler(handlers.unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(handlers.server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(handlers.client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(handlers.bidi),
    }
    limits = [("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", -1), *options.items()]
    server = grpc.server(ThreadPoolExecutor(16), options=limits)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Test", table),))
    server.add_insecure_port(f"unix:{address}")
    server.start()
    try:
        yield
    finally:
        await asyncio.to_thread(server.stop(None).wait)


# Ours


class _Ours:
    """The handlers as our server wants them."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    async def _begin(self, asked: dict[str, Any], call: Call) -> None:
        if (value := call.metadata.get("x-echo-trailing-bin")) is not None:
            call.set_trailer("x-echo-trailing-bin", value)
        if asked.get("wait"):
            self.probe.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.probe.cancelled.set()
        if "status" in asked:
            raise error_of(*asked["status"])

    async def unary(self, request: Raw, call: Call) -> Raw:
        asked = script(request)
        await self._begin(asked, call)
        return Raw(asked["sizes"][0]) if "sizes" in asked else request

    async def server_stream(self, request: Raw, call: Call) -> AsyncIterator[Raw]:
        asked = script(request)
        for size in asked.get("sizes", []):
            self.probe.sent += 1
            yield Raw(size)
        await self._begin(asked, call)

    async def client_stream(self, requests: AsyncIterator[Raw], call: Call) -> Raw:
        total = 0
        async for request in requests:
            total += len(request)
        return Raw(b"%d" % total)

    async def bidi(self, requests: AsyncIterator[Raw], call: Call) -> AsyncIterator[Raw]:
        async for request in requests:
            asked = script(request)
            await self._begin(asked, call)
            if asked.get("end"):
                return
            yield Raw(asked["sizes"][0]) if "sizes" in asked else request


def our_methods(probe: Probe) -> list[Method]:
    """The table of the service."""
    ours = _Ours(probe)
    return [
        Method(SERVICE + "Unary", Raw, Raw, ours.unary),
        Method(SERVICE + "ServerStream", Raw, Raw, ours.server_stream, server_streaming=True),
        Method(SERVICE + "ClientStream", Raw, Raw, ours.client_stream, client_streaming=True),
        Method(SERVICE + "Bidi", Raw, Raw, ours.bidi, client_streaming=True, server_streaming=True),
    ]


@asynccontextmanager
async def our_server(address: str, probe: Probe, **options: Any) -> AsyncIterator[None]:
    """Ours, on the test's loop."""
    server = GrpcServer(our_methods(probe))
    await server.listen_unix(address)
    try:
        yield
    finally:
        await server.drain(0)


SERVERS = {"grpcio": grpcio_server, "ours": our_server}
