"""Pause and resume."""

from __future__ import annotations

from portside.core.containers import Container
from portside.core.services import Services


async def pause(services: Services, container: Container) -> None:
    """Freeze all its processes; FailedPrecondition if it does not run."""
    await services.tasks.pause(container.id)


async def resume(services: Services, container: Container) -> None:
    """Undo ``pause``."""
    await services.tasks.resume(container.id)
