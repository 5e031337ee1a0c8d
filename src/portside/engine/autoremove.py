"""Containers that go when they have ended (``--rm``), and what was added to one by exec, whoever is there to see it.

Each is watched by a task of ours that asks the shim, so no event can be missed; after a restart those that carry the
label are watched again. Whoever started it may await the same task. A container that a crash kept from being
started has nobody who would start it, and goes at the next start of the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from portside.client.exec import ExecOptions, exec_process
from portside.client.labels import AUTO_REMOVE
from portside.client.remove import discard, quietly
from portside.client.run import Attached, finish
from portside.core.containers import Container
from portside.core.services import Backend, Services
from portside.core.tasks import Exit
from portside.errors import NotFound, PortsideError

log = logging.getLogger(__name__)


class AutoRemove:
    """Watches containers until ``close``; what was not removed by then is found again by the next ``resume``."""

    def __init__(self) -> None:
        self._watched: dict[tuple[str, str, str], asyncio.Task[Exit]] = {}
        self._starting: set[asyncio.Task[tuple[str, asyncio.Task[Exit]]]] = set()
        self._made_ns = time.time_ns()

    def watch(self, services: Services, container: Container) -> asyncio.Task[Exit]:
        """The task that waits for the end and then removes; the same one for every caller. Await it shielded."""
        work = finish(services, container, remove_container=True)
        return self._watch((services.namespace, container.id, ""), work)

    async def exec(
        self, services: Services, container: Container, options: ExecOptions, attached: Attached | None
    ) -> tuple[str, asyncio.Task[Exit]]:
        """Start a process (``client.exec``) and watch it; both go on if the caller is cancelled meanwhile."""

        async def start() -> tuple[str, asyncio.Task[Exit]]:
            exec_id = await exec_process(services, container, options, attached)
            return exec_id, self.watch_exec(services, container.id, exec_id)

        starting = asyncio.create_task(start(), name=f"exec in {container.id}")
        self._starting.add(starting)
        starting.add_done_callback(self._started)
        return await asyncio.shield(starting)

    def watch_exec(self, services: Services, container_id: str, exec_id: str) -> asyncio.Task[Exit]:
        """The same for a process that exec has started: its shim would remember every one that nobody removes."""
        return self._watch((services.namespace, container_id, exec_id), _finish_exec(services, container_id, exec_id))

    def _watch(self, key: tuple[str, str, str], work: Coroutine[Any, Any, Exit]) -> asyncio.Task[Exit]:
        if key in self._watched:
            work.close()
        else:
            self._watched[key] = task = asyncio.create_task(work, name=f"remove {key[2] or key[1]}")
            task.add_done_callback(lambda done: self._ended(key, done))
        return self._watched[key]

    async def resume(self, backend: Backend) -> None:
        """Watch all that carry the label, in every namespace."""
        for namespace in await backend.namespaces.list():
            services = backend.bind(namespace)
            for container in await services.containers.list([f'labels."{AUTO_REMOVE}"']):
                if container.created_ns < self._made_ns and not await _has_task(services, container):
                    log.info("container %s: was never started, removing it", container.id[:12])
                    await discard(services, container)
                else:
                    self.watch(services, container)

    async def close(self) -> None:
        """Stop watching."""
        tasks: list[asyncio.Task[Any]] = [*self._starting, *self._watched.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _started(self, task: asyncio.Task[tuple[str, asyncio.Task[Exit]]]) -> None:
        self._starting.discard(task)
        if not task.cancelled():
            task.exception()  # is the caller's, who may have gone

    def _ended(self, key: tuple[str, str, str], task: asyncio.Task[Exit]) -> None:
        self._watched.pop(key, None)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, PortsideError):
            log.info("container %s: not watched any more: %s", key[1][:12], error)
        elif error is not None:
            log.error("container %s: watching it failed", key[1][:12], exc_info=error)


async def _finish_exec(services: Services, container_id: str, exec_id: str) -> Exit:
    ended = await services.tasks.wait(container_id, exec_id)
    try:
        await quietly(services.tasks.delete(container_id, exec_id))
    except PortsideError as error:  # how it ended is known all the same; the rest goes with the container
        log.info("container %s: exec %s is not removed: %s", container_id[:12], exec_id[:12], error)
    return ended


async def _has_task(services: Services, container: Container) -> bool:
    try:
        await services.tasks.get(container.id)
    except NotFound:
        return False
    except PortsideError:
        return True
    return True
