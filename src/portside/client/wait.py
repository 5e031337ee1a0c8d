"""Wait until a process has ended, however it was started, whoever else waits, whatever the server does meanwhile."""

from __future__ import annotations

import asyncio
import time

from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Exit
from portside.errors import NotFound, Unavailable

PATIENCE = 60.0
"""Seconds that a server may be away, as when it is restarted: containers do not notice, and so waiters need not."""

_DELAY, _MAX_DELAY = 0.05, 1.0


async def wait(services: Services, container: Container) -> Exit:
    """How its first process ended; NotFound if it has no task, or lost it while we waited."""
    try:
        return await wait_process(services, container.id)
    except NotFound as error:
        raise NotFound(f"container {container.id[:12]}: it has not been started, or was removed") from error


async def wait_process(services: Services, container_id: str, exec_id: str = "") -> Exit:
    """How a process ended. Asked again if the connection is lost; Unavailable if it stays so for ``PATIENCE``."""
    lost_at, delay = 0.0, _DELAY
    while True:
        asked_at = time.monotonic()
        try:
            return await services.tasks.wait(container_id, exec_id)
        except Unavailable:
            now = time.monotonic()
            if not lost_at or now - asked_at > _MAX_DELAY:
                # The first failure, or one after a call that stood for a while: the patience begins anew.
                lost_at, delay = now, _DELAY
            if now - lost_at > PATIENCE:
                raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, _MAX_DELAY)
