"""The restart monitor: containers whose labels say so are started again when they have ended (``client/restart.py``).

One task for each container that carries ``containerd.io/restart.status``; what it does follows from the labels and
from the state of the container's task alone, so a daemon that starts goes on where the last one stopped:

    status    task                        then
    running   runs, is paused             wait for its end; the shim is asked, so none is missed
              has ended, policy allows    start it after a pause: 0.1 s, doubled each time up to a minute, and from the
                                          beginning after it has run for 10 s (docker's figures)
              has ended, policy does not  leave it
              is not there, or created    its client is at work: leave it for the interval, then as above; so, too,
                                          where a label alone makes that it is to be started
    stopped   runs                        kill and delete it
    other     any                         leave it

What is left alone is looked at again when its labels change, and each interval. containerd's monitor (plugins/restart)
looks at everything each interval and does no more; the labels, and what is counted in them, are the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from portside.client.remove import discard_process
from portside.client.restart import (
    ALWAYS,
    NO,
    ON_FAILURE,
    RUNNING,
    STOPPED,
    count_of,
    policy_of,
    relabel,
)
from portside.client.start import start_task
from portside.core.containers import Container
from portside.core.durations import Seconds
from portside.core.labels import RESTART_COUNT, RESTART_LOG, RESTART_STATUS, RESTART_STOPPED
from portside.core.services import Services
from portside.core.tasks import Process, Status, TaskIO
from portside.errors import InvalidArgument, NotFound, PortsideError
from portside.metadata.schema import CONTAINERS
from portside.metadata.state import Effect
from portside.metadata.store import Metadata

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
LONG_ENOUGH = 10.0
"""Seconds after which a start counts as a success, and the pauses begin anew."""
_ALIVE = (Status.RUNNING, Status.PAUSED, Status.PAUSING)

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RestartConfig:
    """The table of the plugin."""

    interval: Seconds = 10.0
    """After how many seconds what is left alone is looked at again; 0 is 10, as containerd has it."""


class Verdict(Enum):
    """What is to be done about a container."""

    LEAVE = auto()
    WATCH = auto()
    """It runs: wait for its end."""
    START = auto()
    END = auto()


def verdict(labels: Mapping[str, str], process: Process | None) -> Verdict:
    """From a container's labels and its first process, None where it has no task."""
    status = labels.get(RESTART_STATUS, "")
    alive = process is not None and process.status in _ALIVE
    if status == STOPPED:
        return Verdict.END if alive else Verdict.LEAVE
    if status != RUNNING:
        return Verdict.LEAVE
    if alive:
        return Verdict.WATCH
    policy = policy_of(labels)
    if policy.name == NO or _is_held(labels):
        return Verdict.LEAVE
    if policy.name == ON_FAILURE:
        failed = process is not None and process.status is Status.STOPPED and process.exit_status != 0
        if not failed or 0 < policy.retries <= count_of(labels):
            return Verdict.LEAVE
    return Verdict.START


def _is_held(labels: Mapping[str, str]) -> bool:
    return labels.get(RESTART_STOPPED, "").lower() in ("true", "1", "t")


class RestartMonitor:
    """Watches the containers of one ``Metadata``. ``start`` begins, ``close`` ends; containers do not notice either."""

    def __init__(
        self, metadata: Metadata, bind: Callable[[str], Services], config: RestartConfig | None = None
    ) -> None:
        self._interval = (config or RestartConfig()).interval or RestartConfig().interval
        if self._interval < 0:
            raise InvalidArgument(f"restart monitor: interval {self._interval:g}: want a time above 0")
        self._metadata, self._bind = metadata, bind
        self._keepers: dict[_Key, tuple[_Keeper, asyncio.Task[None]]] = {}

    @property
    def watched(self) -> int:
        """How many containers it sees to."""
        return len(self._keepers)

    def start(self) -> None:
        """Take over all that carry the label."""
        state = self._metadata.db.state
        for scope in state.scopes(CONTAINERS):
            for id, container in state.rows(CONTAINERS, scope).items():
                if container.labels.get(RESTART_STATUS):
                    self._keep((scope[0], id), at_boot=True)
        self._metadata.db.published.append(self._changed)

    async def close(self) -> None:
        """Stop watching. A start that is in progress is undone; the next monitor does it again."""
        if self._changed in self._metadata.db.published:
            self._metadata.db.published.remove(self._changed)
        tasks = [task for _, task in self._keepers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if effect.table is not CONTAINERS:
                continue
            key = (effect.scope[0], effect.key)
            if key in self._keepers:
                self._keepers[key][0].changed.set()
            elif effect.new is not None and effect.new.labels.get(RESTART_STATUS):
                self._keep(key)

    def _keep(self, key: _Key, at_boot: bool = False) -> None:
        keeper = _Keeper(self._bind(key[0]), key[1], self._interval, at_boot)
        task = asyncio.get_running_loop().create_task(keeper.run(), name=f"restart monitor {key[0]}/{key[1]}")
        self._keepers[key] = (keeper, task)
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: _Key, task: asyncio.Task[None]) -> None:
        del self._keepers[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("container %s: the restart monitor lets go of it", key[1][:12], exc_info=error)
        record = self._metadata.db.state.get(CONTAINERS, (key[0],), key[1])
        if not task.cancelled() and task.exception() is None and record and record.labels.get(RESTART_STATUS):
            self._keep(key)  # made anew under the same id while the keeper of the old one was leaving


class _Keeper:
    """One container, until it is gone or nobody is to see to it any more."""

    def __init__(self, services: Services, id: str, interval: float, at_boot: bool) -> None:
        self.changed = asyncio.Event()
        """Set when the record has changed."""
        self._services, self._id, self._interval = services, id, interval
        self._at_boot = at_boot
        self._absent_since = 0.0 if at_boot else time.monotonic()
        self._alive_since: float | None = None
        self._pause = FIRST_PAUSE
        self._due: float | None = None  # when it is to be started
        self._status = ""  # the label as it was the last time
        self._others = not at_boot  # whether others may be about to start it
        self._left = False  # whether it was left alone the last time

    async def run(self) -> None:
        """Look, do, wait, again and again."""
        while True:
            self.changed.clear()
            try:
                container = await self._services.containers.get(self._id)
                if not container.labels.get(RESTART_STATUS):
                    return
                if self._at_boot:
                    self._at_boot = False
                    container = await self._as_docker_at_boot(container)
                process = await self._process()
                await self._see_to(container, process)
            except NotFound:
                if await self._is_gone():
                    return
                await self._sleep(self._interval)
            except PortsideError as error:
                log.warning("container %s: the restart monitor will look again: %s", self._id[:12], error)
                await self._sleep(self._interval)

    async def _see_to(self, container: Container, process: Process | None) -> None:
        wanted = verdict(container.labels, process)
        before, self._status = self._status, container.labels[RESTART_STATUS]
        was_left, self._left = self._left, wanted is Verdict.LEAVE
        if wanted is Verdict.START and was_left:
            # A client that sets this and that before it starts it, or one that has just started it or asks us to.
            self._absent_since = time.monotonic() if before == RUNNING else 0.0
            self._others = before == RUNNING
        if wanted is Verdict.WATCH:
            self._others = False
            await self._watch()
            return
        if self._alive_since is not None:
            if time.monotonic() - self._alive_since >= LONG_ENOUGH:
                self._pause = FIRST_PAUSE
            self._alive_since, self._absent_since = None, time.monotonic()
        if wanted is Verdict.END:
            log.info("container %s: it is to be stopped, killing it", self._id[:12])
            await discard_process(self._services, self._id)
            await self._sleep(FIRST_PAUSE)
        elif wanted is Verdict.LEAVE:
            self._due = None
            await self._sleep(self._interval)
        elif (pause := self._pause_before_start(process)) > 0:
            await self._sleep(pause)
        else:
            await self._start(container)

    def _pause_before_start(self, process: Process | None) -> float:
        """Seconds from now."""
        now = time.monotonic()
        if self._others or process is None or process.status is not Status.STOPPED:
            left = self._absent_since + self._interval - now if self._absent_since else 0.0
            if left > 0:
                return left
        if self._due is None:
            self._due = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return self._due - now

    async def _start(self, container: Container) -> None:
        self._due = None
        count = count_of(container.labels) + 1
        container = await relabel(self._services, container, {RESTART_COUNT: str(count)})
        log.info("container %s: starting it again, for the %d. time", self._id[:12], count)
        try:
            if (process := await self._process()) and process.status is Status.CREATED:
                await discard_process(self._services, self._id)
            await start_task(self._services, container, _streams(container))
        except PortsideError as error:
            log.warning("container %s: it cannot be started again: %s", self._id[:12], error)
            self._absent_since = 0.0  # nobody else is at it: the pause alone counts
            return
        self._alive_since = time.monotonic()
        if await self._is_gone():  # removed meanwhile, by somebody who asked for its task before there was one
            await discard_process(self._services, self._id)

    async def _watch(self) -> None:
        """Return when it has ended or its record has changed."""
        if self._alive_since is None:
            self._alive_since = time.monotonic()
        self._due = None
        ending = asyncio.ensure_future(self._services.tasks.wait(self._id))
        changing = asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait([ending, changing], return_when=asyncio.FIRST_COMPLETED)
            if ending.done() and (ending.cancelled() or ending.exception() is not None):
                await self._sleep(FIRST_PAUSE)
        finally:
            for waiting in (ending, changing):
                waiting.cancel()
            await asyncio.gather(ending, changing, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        """Until the record changes, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            return

    async def _process(self) -> Process | None:
        try:
            return await self._services.tasks.get(self._id)
        except NotFound:
            return None

    async def _is_gone(self) -> bool:
        try:
            await self._services.containers.get(self._id)
        except NotFound:
            return True
        return False

    async def _as_docker_at_boot(self, container: Container) -> Container:
        """What was stopped on purpose stays so until the daemon starts, under ``always``: that is the difference to
        ``unless-stopped``."""
        if policy_of(container.labels).name != ALWAYS or not _is_held(container.labels):
            return container
        return await relabel(self._services, container, {RESTART_STATUS: RUNNING, RESTART_STOPPED: ""})


def _streams(container: Container) -> TaskIO:
    uri = container.labels.get(RESTART_LOG, "")
    terminal = _wants_terminal(container)
    return TaskIO("", uri, "" if terminal else uri, terminal)


def _wants_terminal(container: Container) -> bool:
    try:
        document: Any = json.loads(container.spec.value) if container.spec else {}
        return bool(document["process"]["terminal"])
    except (ValueError, KeyError, TypeError):
        return False
