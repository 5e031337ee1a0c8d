"""What all services share: a channel, the name of a service, and the metadata that carries namespace and lease."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from portside.wire.grpc.client import Channel
from portside.wire.grpc.client_call import Call

T = TypeVar("T")

TIMEOUT = 120.0
"""Seconds for a call that reads or changes records. None for others: that is up to the data or the container, and a
server that has stopped answering is found out by PINGs (``backend.KEEPALIVE``)."""


class Caller:
    """Calls to one service of one namespace; ``asyncio.timeout`` gives them an earlier deadline."""

    def __init__(self, channel: Channel, service: str, namespace: str = "", lease: str = "") -> None:
        self._channel = channel
        self._service = f"/{service}/"
        pairs = (("containerd-namespace", namespace), ("containerd-lease", lease))
        self._metadata = tuple((key, value) for key, value in pairs if value)

    async def call(self, method: str, request: Any, response_class: type[T], timeout: float | None = TIMEOUT) -> T:
        """One answer, or the error that the server answered with; DeadlineExceeded after ``timeout`` seconds."""
        return await self._channel.unary(
            self._service + method, request, response_class, metadata=self._metadata, timeout=timeout
        )

    def answers(self, method: str, request: Any, response_class: type[T]) -> AsyncIterator[T]:
        """Streamed answers."""
        return self._channel.server_stream(self._service + method, request, response_class, metadata=self._metadata)

    def dialogue(self, method: str, response_class: type[T]) -> Call[T]:
        """Messages both ways; whoever asks for it ends or cancels it."""
        return self._channel.stream(self._service + method, response_class, metadata=self._metadata)
