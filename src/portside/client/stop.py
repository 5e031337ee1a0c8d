"""Stop and kill."""

from __future__ import annotations

import asyncio

from portside.client.labels import STOP_SIGNAL
from portside.client.remove import quietly
from portside.client.restart import hold
from portside.client.signals import SIGKILL, SIGTERM, parse_signal
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Exit, Status
from portside.errors import InvalidArgument, NotFound, PortsideError

STOP_TIMEOUT = 10.0
"""Seconds between the stop signal and SIGKILL."""


def stop_signal(container: Container) -> int:
    """The signal that asks this container to end."""
    try:
        return parse_signal(container.labels.get(STOP_SIGNAL, ""))
    except InvalidArgument:
        return SIGTERM


async def stop(
    services: Services, container: Container, *, timeout: float = STOP_TIMEOUT, signal: int = 0
) -> Exit | None:
    """Ask it to end, and after ``timeout`` seconds make it; how it ended, None if it has no task."""
    try:
        await hold(services, container)
        process = await services.tasks.get(container.id)
        if process.status is not Status.STOPPED:
            if process.status in (Status.PAUSED, Status.PAUSING):
                await services.tasks.resume(container.id)
            await _end(services, container, timeout, signal or stop_signal(container))
        return await services.tasks.wait(container.id)
    except NotFound:
        return None


async def _end(services: Services, container: Container, timeout: float, signal: int) -> None:
    waiting = asyncio.ensure_future(services.tasks.wait(container.id))
    try:
        if timeout > 0:
            await quietly(services.tasks.kill(container.id, signal))
            done, _ = await asyncio.wait([waiting], timeout=timeout)
            if done:
                return
        await quietly(services.tasks.kill(container.id, SIGKILL, all=True))
        await asyncio.wait([waiting])
    finally:
        waiting.cancel()
        try:
            await waiting
        except (asyncio.CancelledError, PortsideError):
            pass


async def kill(services: Services, container: Container, signal: str = "KILL") -> None:
    """Send ``signal`` to its first process; NotFound if that does not run."""
    number = parse_signal(signal or "KILL")
    if number in (SIGKILL, stop_signal(container)):  # what ends it, others may only tell it something
        await hold(services, container)
    await services.tasks.kill(container.id, number)
