"""A sandbox as the daemon sees it: calls to the shim that it is, each with a deadline, and the shim's end.

What belongs here: one sandbox. Which sandboxes there are, and events, is the controller's (``engine/sandboxes.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any

from portside.core.sandboxes import SandboxExit
from portside.errors import PortsideError, Unavailable
from portside.supervisor.bundles import Bundle
from portside.supervisor.connection import FOREVER, ShimConnection
from portside.supervisor.task import ended_within, nanoseconds
from portside.wire.codec import Message
from portside.wire.tables.containerd_runtime_sandbox_v1 import SERVICES

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"
CALL_TIMEOUT = 10.0
"""Seconds for a call."""
END_TIMEOUT = 5.0
"""Seconds for a shim to end after it was told to."""
LAST_WORDS = 0.5
"""Seconds for what a shim said before it ended to arrive."""
KILLED = 128 + signal.SIGKILL
"""The status of a sandbox whose shim ended by itself."""


class ShimSandbox:
    """One sandbox. ``close`` lets go of it; it goes on."""

    def __init__(self, bundle: Bundle, address: str, pidfd: int) -> None:
        """``pidfd`` (owned from now on) is of the shim; -1 if it was there before us: see ``find_shim``."""
        self.bundle = bundle
        self.address = address
        self._connection = ShimConnection(address, bundle.namespace, SERVICE, SERVICES[SERVICE])
        self._pidfd = pidfd
        self._ending: asyncio.Task[SandboxExit] | None = None

    async def call(self, method: str, timeout: float = CALL_TIMEOUT, **fields: Any) -> Message:
        """The shim's answer; its own error, DeadlineExceeded, or Unavailable if it is gone."""
        return await self._connection.call(method, {"sandbox_id": self.bundle.id, **fields}, timeout)

    async def wait(self) -> SandboxExit:
        """Returns when it has ended, by StopSandbox or with its shim. One call to the shim serves all who wait."""
        ending = self._ending
        if ending is None:
            ending = self._ending = asyncio.create_task(self._wait(), name=f"wait for sandbox {self.bundle.id}")
        await asyncio.wait([ending])  # Who stops to wait does not stop the others.
        if ending.cancelled():
            raise Unavailable(f"wait for sandbox {self.bundle.id}: the daemon lets go of it")
        return ending.result()

    async def find_shim(self, timeout: float = CALL_TIMEOUT) -> None:
        """Ask for the process that it is, if that is not known. Unavailable if it is gone; what the shim says."""
        if self._pidfd < 0:
            pid: int = (await self.call("SandboxStatus", timeout))["pid"]
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError as error:
                raise Unavailable(f"sandbox {self.bundle.id}: its shim {pid} is gone") from error

    async def pidfd(self) -> int:
        """A pidfd of its shim, the caller's. Unavailable if that is gone."""
        await self.find_shim()
        return os.dup(self._pidfd)

    async def end(self, timeout: float = END_TIMEOUT) -> None:
        """The sandbox is shut down, or to be given up: see that the shim ends, by itself within ``timeout`` seconds."""
        if self._pidfd >= 0 and not await ended_within(self._pidfd, timeout):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Let go of the shim."""
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        await self._connection.close()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    async def _wait(self) -> SandboxExit:
        while True:
            try:
                answer = await self._answer_or_end()
                return SandboxExit(answer["exit_status"], nanoseconds(answer["exited_at"]))
            except PortsideError:
                if await self.is_dead():
                    return SandboxExit(KILLED, time.time_ns())
                await asyncio.sleep(0.2)  # It is alive, so it will answer again.

    async def _answer_or_end(self) -> Message:
        """The answer to WaitSandbox; Unavailable once the shim has ended, even if its connection has not."""
        call = asyncio.create_task(self.call("WaitSandbox", FOREVER))
        tasks: list[asyncio.Task[Any]] = [call]
        if self._pidfd >= 0:
            tasks.append(asyncio.create_task(ended_within(self._pidfd, FOREVER)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([call], timeout=LAST_WORDS)
            if not call.done():
                raise Unavailable(f"sandbox {self.bundle.id}: its shim has ended")
            return call.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def is_dead(self) -> bool:
        """Whether the shim is gone."""
        if self._pidfd >= 0:
            return await ended_within(self._pidfd, 0.5)
        try:
            await self.call("PingSandbox")
        except PortsideError:
            return True  # Nobody listens, or it is not this sandbox any more.
        return False
