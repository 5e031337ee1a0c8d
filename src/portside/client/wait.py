"""Wait: until a container has ended, however it was started and whoever else waits."""

from __future__ import annotations

from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Exit
from portside.errors import NotFound


async def wait(services: Services, container: Container) -> Exit:
    """How its first process ended; NotFound if it has no task, or lost it while we waited."""
    try:
        return await services.tasks.wait(container.id)
    except NotFound as error:
        raise NotFound(f"container {container.id[:12]}: it has not been started, or was removed") from error
