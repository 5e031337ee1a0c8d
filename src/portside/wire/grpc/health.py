"""The health service (``grpc.health.v1.Health``): who is ready, asked once or watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from portside import errors
from portside.wire.grpc.service import Call, Method, inline, methods_of
from portside.wire.pb.grpc.health.v1 import health_pb2
from portside.wire.pb.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The state of each service by its full name; ``""`` is the server as a whole, and serves from the start."""

    def __init__(self) -> None:
        self._serving = {"": True}
        self._changed = asyncio.Event()

    def methods(self) -> list[Method]:
        """Rows for the server's table."""
        return methods_of(health_pb2.DESCRIPTOR.services_by_name["Health"], self)

    def set(self, service: str, serving: bool) -> None:
        """Say whether ``service`` serves; watchers hear of it."""
        self._serving[service] = serving
        self._notify()

    def shut_down(self) -> None:
        """Nothing serves any more, from now on: to be called before a drain."""
        self._serving = dict.fromkeys(self._serving, False)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        serving = self._serving.get(service)
        return SERVICE_UNKNOWN if serving is None else SERVING if serving else NOT_SERVING

    @inline
    async def check(self, request: HealthCheckRequest, call: Call) -> HealthCheckResponse:
        """The state of one service; NotFound if nobody has said anything of it."""
        if request.service not in self._serving:
            raise errors.NotFound(f"health of service {request.service!r}: unknown service")
        return HealthCheckResponse(status=self._status(request.service))

    @inline
    async def list(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        """The state of all services."""
        statuses = {name: HealthCheckResponse(status=self._status(name)) for name in self._serving}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def watch(self, request: HealthCheckRequest, call: Call) -> AsyncIterator[HealthCheckResponse]:
        """The state of one service now, and again whenever it changes; SERVICE_UNKNOWN as long as it is not known."""
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
            else:
                await changed.wait()
