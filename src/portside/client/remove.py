"""Remove: the task if it has ended, the record, the snapshot, the log."""

from __future__ import annotations

import os
from collections.abc import Awaitable

from portside.client.labels import LOG
from portside.client.signals import SIGKILL
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Status
from portside.core.work import in_thread
from portside.errors import FailedPrecondition, NotFound, PortsideError


async def remove(services: Services, container: Container, *, force: bool = False) -> None:
    """Remove a container; FailedPrecondition if it runs, unless ``force`` kills it first. Missing parts are fine."""
    try:
        process = await services.tasks.get(container.id)
    except NotFound:
        process = None
    if process is not None:
        if process.status in (Status.RUNNING, Status.PAUSED, Status.PAUSING, Status.CREATED):
            if not force and process.status is not Status.CREATED:
                raise FailedPrecondition(f"container {container.id[:12]}: it runs; stop it first, or remove with force")
            await _kill(services, container.id, process.status)
        await quietly(services.tasks.delete(container.id))
    await services.containers.delete(container.id)
    await _remove_snapshot(services, container)
    await in_thread(remove_log, container.labels.get(LOG, ""))


async def discard(services: Services, container: Container) -> None:
    """Remove whatever there is of a container that did not come to be; never fails."""
    try:
        process = await services.tasks.get(container.id)
        await _kill(services, container.id, process.status)
        await services.tasks.delete(container.id)
    except PortsideError:
        pass
    for step in (services.containers.delete(container.id), _remove_snapshot(services, container)):
        try:
            await step
        except PortsideError:
            continue
    await in_thread(remove_log, container.labels.get(LOG, ""))


async def quietly(step: Awaitable[object]) -> None:
    """Do ``step``; that its object has gone already is fine."""
    try:
        await step
    except NotFound:
        return


async def _kill(services: Services, id: str, status: Status) -> None:
    if status in (Status.STOPPED, Status.CREATED):
        # Deleting a created task kills it.
        return
    await quietly(services.tasks.kill(id, SIGKILL, all=True))
    if status in (Status.PAUSED, Status.PAUSING):
        # A frozen process dies only once it is thawed (cgroup v1).
        try:
            await services.tasks.resume(id)
        except PortsideError:
            pass
    await quietly(services.tasks.wait(id))


async def _remove_snapshot(services: Services, container: Container) -> None:
    if container.snapshot_key:
        await quietly(services.snapshotter(container.snapshotter).remove(container.snapshot_key))


def remove_log(path: str) -> None:
    """Remove a log of ours with what was rotated, and its directory; other files are left alone."""
    directory, name = os.path.split(path)
    if name != "log" or not os.path.isabs(directory):
        return
    for leaf in ("log", "log.1"):
        try:
            os.unlink(os.path.join(directory, leaf))
        except OSError:
            continue
    try:
        os.rmdir(directory)
    except OSError:
        return
