"""The same table of methods served by grpcio: what it answers is what ours must answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from portside import errors
from portside.wire import status
from portside.wire.grpc.service import Method

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ReferenceCall:
    """The ``Call`` of one of grpcio's calls."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._headers: list[tuple[str, Any]] = []
        self._trailers: list[tuple[str, Any]] = []
        self.metadata = dict(reversed(list(context.invocation_metadata() or ())))
        left = context.time_remaining()
        self.deadline = None if left is None else asyncio.get_running_loop().time() + left

    def set_trailer(self, key: str, value: str | bytes) -> None:
        self._trailers.append((key, value))
        self._context.set_trailing_metadata(tuple(self._trailers))

    def set_header(self, key: str, value: str | bytes) -> None:
        self._headers.append((key, value))

    def compress(self) -> None:
        self._context.set_compression(grpc.Compression.Gzip)

    async def begin(self) -> None:
        """Send the leading metadata, once there is a message to follow."""
        if self._headers:
            await self._context.send_initial_metadata(tuple(self._headers))
            self._headers = []


async def _abort(context: grpc.aio.ServicerContext, error: errors.PortsideError) -> None:
    await context.abort(_CODES[status.code_of(error)], str(error))


def _handler(method: Method) -> grpc.RpcMethodHandler:
    async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
        call = ReferenceCall(context)
        try:
            response = await method.handler(request, call)
        except errors.PortsideError as error:
            await _abort(context, error)
        else:
            await call.begin()
            return response

    async def stream(request: Any, context: grpc.aio.ServicerContext) -> Any:
        call = ReferenceCall(context)
        try:
            async for response in method.handler(request, call):
                await call.begin()
                yield response
        except errors.PortsideError as error:
            await _abort(context, error)

    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        stream if method.server_streaming else unary,
        request_deserializer=method.request.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )


class ReferenceServer:
    """Looks like ``GrpcServer`` to a test."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._server = grpc.aio.server()
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for method in methods:
            _, service, name = method.path.split("/")
            services.setdefault(service, {})[name] = _handler(method)
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items())
        )

    async def listen_unix(self, path: Path) -> None:
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()

    async def drain(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)

    def statistics(self) -> dict[str, int]:
        return {"connections": 0, "tasks": 0, "listeners": 0}
