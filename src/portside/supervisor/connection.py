"""Calls to one shim by ttrpc: every one with a deadline, messages as dictionaries, the connection made when needed.

What belongs here: bytes and time. What an unanswered call means for the task is decided in ``task.py``. A foreign shim
that speaks ttrpc is called the same way: the messages are containerd's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from portside.errors import PortsideError, Unavailable
from portside.shim.sockets import connectable
from portside.wire.codec import Message, Table, decode, encode
from portside.wire.tables.containerd_task import SERVICES
from portside.wire.ttrpc.client import TtrpcClient

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to be accepted."""
FOREVER = 10 * 365 * 86400.0
"""The deadline of Wait: containers may run for years."""
SERVICE = "containerd.task.v2.Task"
METHODS = SERVICES[SERVICE]


class ShimConnection:
    """The caller's side of a shim's socket."""

    def __init__(
        self, address: str, namespace: str, service: str = SERVICE,
        methods: Mapping[str, tuple[Table, Table, bool, bool]] = METHODS,
    ) -> None:  # fmt: skip
        self.address = address
        self._metadata = {"containerd-namespace-ttrpc": namespace}
        self._service = service
        self._methods = methods
        self._client: TtrpcClient | None = None
        self._lock = asyncio.Lock()

    async def call(self, method: str, fields: Mapping[str, Any], timeout: float) -> Message:
        """The answer to ``method`` with a request of ``fields``.

        The shim's own error, DeadlineExceeded after ``timeout`` seconds, or Unavailable if nobody listens or the
        connection was lost; whether the call had an effect is then unknown.
        """
        request, response, _, _ = self._methods[method]
        client = await self._connected()
        answer = await client.call(
            self._service, method, encode(request, fields), timeout=timeout, metadata=self._metadata
        )
        return decode(response, answer)

    async def lost(self) -> None:
        """Return when the connection is gone (at once if there is none)."""
        if self._client is not None:
            await self._client.wait_closed()

    async def close(self) -> None:
        """Drop the connection; calls in flight fail with Unavailable."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> TtrpcClient:
        client = self._client
        if client is not None and not client.closed:
            return client
        async with self._lock:
            client = self._client
            if client is None or client.closed:
                self._client = client = await self._connect()
            return client

    async def _connect(self) -> TtrpcClient:
        try:
            path, directory = connectable(self.address)
        except OSError as error:
            raise Unavailable(f"shim at {self.address}: {error}") from error
        try:
            return await TtrpcClient.connect(path, CONNECT_TIMEOUT)
        except PortsideError as error:
            raise Unavailable(f"shim at {self.address}: {error}") from error
        finally:
            if directory >= 0:
                os.close(directory)
