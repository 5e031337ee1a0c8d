"""Remove: the task if it has ended, the record, the snapshot, the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable

from portside.client.labels import LOG
from portside.client.restart import hold
from portside.client.signals import SIGKILL
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Status
from portside.core.work import in_thread
from portside.errors import FailedPrecondition, NotFound, PortsideError


async def remove(services: Services, container: Container, *, force: bool = False) -> None:
    """Remove a container; FailedPrecondition if it runs, unless ``force`` kills it first. Missing parts are fine."""
    await quietly(_delete_task(services, container, force))
    # A container that is to go by itself may go while we are at it.
    gone = quietly(services.containers.delete(container.id))
    for result in await asyncio.gather(
        gone, _remove_snapshot(services, container), _remove_log(container), return_exceptions=True
    ):
        if isinstance(result, BaseException):
            raise result


async def _delete_task(services: Services, container: Container, force: bool) -> None:
    try:
        # Asked to delete rather than for its state: one call where it has ended, which is nearly always.
        await services.tasks.delete(container.id)
        return
    except NotFound:
        return
    except PortsideError as error:
        # containerd's own shims call it Unknown that the task runs.
        status = (await services.tasks.get(container.id)).status
        if status is not Status.STOPPED and not force:
            raise FailedPrecondition(
                f"container {container.id[:12]}: it runs; stop it first, or remove with force"
            ) from error
        await quietly(hold(services, container))
    await _kill(services, container.id)
    await services.tasks.delete(container.id)


async def discard(services: Services, container: Container) -> None:
    """Remove whatever there is of a container that did not come to be; never fails."""
    await discard_process(services, container.id)
    steps = (services.containers.delete(container.id), _remove_snapshot(services, container), _remove_log(container))
    await asyncio.gather(*steps, return_exceptions=True)


async def discard_process(services: Services, id: str, exec_id: str = "") -> None:
    """Kill and delete a task or an exec that did not come to be, or did as its start was cancelled; never fails."""
    try:
        await _kill(services, id, exec_id)
        await services.tasks.delete(id, exec_id)
    except PortsideError:
        return


async def quietly(step: Awaitable[object]) -> None:
    """Do ``step``; that its object has gone already is fine."""
    try:
        await step
    except NotFound:
        return


async def _kill(services: Services, id: str, exec_id: str = "") -> None:
    try:
        status = (await services.tasks.get(id, exec_id)).status
    except NotFound:
        return
    if status in (Status.STOPPED, Status.CREATED):
        # Deleting what is created kills it.
        return
    await quietly(services.tasks.kill(id, SIGKILL, exec_id, all=not exec_id))
    if status in (Status.PAUSED, Status.PAUSING):
        # A frozen process dies only once it is thawed (cgroup v1).
        try:
            await services.tasks.resume(id)
        except PortsideError:
            pass
    await quietly(services.tasks.wait(id, exec_id))


async def _remove_log(container: Container) -> None:
    await in_thread(remove_log, container.labels.get(LOG, ""))


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
