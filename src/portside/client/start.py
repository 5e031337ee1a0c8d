"""Start: the task of a container that is there, for the first time or again."""

from __future__ import annotations

from collections.abc import Sequence

from portside.client.remove import discard_process
from portside.client.restart import release, suspend
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.services import Services
from portside.core.tasks import Status, TaskIO
from portside.errors import FailedPrecondition, NotFound


async def start(services: Services, container: Container, io: TaskIO, rootfs: Sequence[Mount] | None = None) -> int:
    """Run ``container``; the pid of its first process. FailedPrecondition if it runs already.

    An ended task of it is deleted first. If the start fails, no task stays. ``rootfs`` saves asking for the mounts.
    A restart policy holds from here on.
    """
    if rootfs is None:
        await _clear(services, container)
    container = await suspend(services, container)
    pid = await _start(services, container, io, rootfs)
    await release(services, container)
    return pid


async def start_task(services: Services, container: Container, io: TaskIO) -> int:
    """The same without regard to a restart policy."""
    await _clear(services, container)
    return await _start(services, container, io, None)


async def _start(services: Services, container: Container, io: TaskIO, rootfs: Sequence[Mount] | None) -> int:
    if rootfs is None:
        key = container.snapshot_key
        rootfs = await services.snapshotter(container.snapshotter).mounts(key) if key else ()
    await services.tasks.create(container.id, rootfs, io, options=container.runtime_options)
    try:
        return await services.tasks.start(container.id)
    except BaseException:
        await discard_process(services, container.id)
        raise


async def _clear(services: Services, container: Container) -> None:
    try:
        process = await services.tasks.get(container.id)
    except NotFound:
        return
    if process.status is not Status.STOPPED:
        raise FailedPrecondition(f"container {container.id[:12]}: it is {process.status.name.lower()} already")
    await services.tasks.delete(container.id)
