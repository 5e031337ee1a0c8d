"""When to collect garbage: soon after something was removed, when something expires, and after a start.

An idle engine does nothing; a busy one spends a bounded part of its time on it. How garbage is found is not known
here (``metadata/gc.py``). The settings are those of containerd's ``io.containerd.gc.v1.scheduler``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portside.core.durations import parse_duration
from portside.errors import InvalidArgument, PortsideError
from portside.metadata.gc import Report, expiry
from portside.metadata.schema import CONTAINERS, CONTENT, IMAGES, LEASES, MOUNTS, RESOURCES, SANDBOXES, SNAPSHOTS
from portside.metadata.state import Effect
from portside.metadata.store import Metadata

log = logging.getLogger(__name__)

QUIET = 0.3
"""Seconds to wait after a removal, since more of them usually follow."""
RETRY = 30.0
"""Seconds after which a collection that failed, in whole or in part, is tried again."""
_MAX_SLEEP = 60.0

_LABELS = "containerd.io/gc."
_WATCHED = (CONTAINERS, CONTENT, IMAGES, LEASES, MOUNTS, RESOURCES, SANDBOXES, SNAPSHOTS)


@dataclass(frozen=True, slots=True)
class Policy:
    """The scheduler's settings; times in seconds."""

    pause_threshold: float = 0.02
    """The part of its time that the engine may spend on collections, at most 0.5."""
    deletion_threshold: int = 0
    """Removals after which a collection does not wait for quiet; 0: they always do."""
    mutation_threshold: int = 100
    """Changes of any kind after which a collection comes, even if nothing seems to have been removed; 0: never."""
    schedule_delay: float = 0.0
    """An additional pause before each collection."""
    startup_delay: float = 0.1
    """When to collect first."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Policy:
        """From the plugin's table, times as Go writes them (``100ms``, ``0s``); InvalidArgument."""
        values: dict[str, Any] = {}
        for name, value in config.items():
            if name not in cls.__dataclass_fields__:
                continue
            if name.endswith("delay"):
                values[name] = max(0.0, parse_duration(value))
            elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise InvalidArgument(f"garbage collection: {name} = {value!r} is not a number")
            else:
                values[name] = min(float(value), 0.5) if name == "pause_threshold" else int(value)
        return cls(**values)


class Scheduler:
    """Runs collections of one ``Metadata``. ``start`` begins, ``close`` ends."""

    def __init__(self, metadata: Metadata, policy: Policy | None = None) -> None:
        self._metadata = metadata
        self._policy = policy or Policy()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._deletions = self._mutations = 0
        self._since = 0.0  # when the first change after a collection came that calls for the next
        self._next_expiry_ns = 0
        self._not_before = 0.0
        self._reconciled = False
        self.last: Report | None = None
        """The last collection's report."""
        self.error = ""
        """Why the last collection failed, in whole or in part; empty if it did not."""

    def start(self) -> None:
        """Begin; the first collection also looks for what a crash left behind."""
        self._metadata.db.published.append(self._watch)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="garbage collection")

    async def close(self) -> None:
        """End. A collection that runs is waited for by ``Metadata.close``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._metadata.db.published.remove(self._watch)
            self._task = None

    async def _run(self) -> None:
        await asyncio.sleep(self._policy.startup_delay)
        await self._collect()
        while True:
            self._changed.clear()
            wait = self._time_left()
            if wait is not None and wait <= 0:
                await self._collect()
                continue
            try:
                async with asyncio.timeout(min(wait, _MAX_SLEEP) if wait is not None else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _time_left(self) -> float | None:
        """Seconds until the next collection; None if none is needed."""
        policy, now = self._policy, time.monotonic()
        waits = []
        if self._deletions:
            at_once = 0 < policy.deletion_threshold <= self._deletions
            waits.append(0.0 if at_once else self._since + QUIET - now)
        if 0 < policy.mutation_threshold <= self._mutations:
            waits.append(self._since + QUIET - now)
        if self.error:
            waits.append(self._not_before - now)
        if self._next_expiry_ns:
            waits.append((self._next_expiry_ns - time.time_ns()) / 1e9)
        return max(min(waits), self._not_before - now) if waits else None

    async def _collect(self) -> None:
        await asyncio.sleep(self._policy.schedule_delay)
        self._deletions = self._mutations = 0
        self._since, self._next_expiry_ns = 0.0, 0
        started = time.monotonic()
        try:
            if not self._reconciled:
                await self._metadata.reconcile()
                self._reconciled = True
            self.last = await self._metadata.collect()
            self.error = "; ".join(self.last.failures)
            self._expires(self.last.next_expiry_ns)
        except (PortsideError, OSError) as error:
            self.error = str(error)
            log.warning("garbage collection: %s", error)
        except Exception as error:  # a defect, but without collections the disk fills up
            self.error = f"{type(error).__name__}: {error}"
            log.exception("garbage collection failed")
        ended = time.monotonic()
        pause = (ended - started) / self._policy.pause_threshold if self._policy.pause_threshold else 0.0
        self._not_before = ended + (max(pause, RETRY) if self.error else min(pause, RETRY))

    def _watch(self, effects: Sequence[Effect]) -> None:
        self._deletions += _removals(effects)
        for effect in effects:
            if effect.table not in _WATCHED:
                continue
            self._mutations += 1
            record = getattr(effect.new, "info", effect.new)
            labels = getattr(record, "labels", None)
            if labels:
                self._expires(expiry(labels) or 0)
        if not self._since and (self._deletions or self._mutations >= self._policy.mutation_threshold > 0):
            self._since = time.monotonic()
        self._changed.set()

    def _expires(self, end_ns: int) -> None:
        if end_ns > 0 and (not self._next_expiry_ns or end_ns < self._next_expiry_ns):
            self._next_expiry_ns = end_ns


def _removals(effects: Sequence[Effect]) -> int:
    """How many of ``effects`` may have left garbage: removals, and changes by which a reference went.

    No others: clients that know nothing of leases pull image by image and layer by layer, and count on it that a
    collection seldom comes between. For them a snapshot that is committed is the same one with another name.
    """
    made = {(effect.scope, effect.new.number) for effect in effects if _is_made(effect)}
    renamed = {
        (effect.scope[0], f"snapshots/{effect.scope[1]}", effect.key)
        for effect in effects
        if effect.table is SNAPSHOTS and effect.new is None and (effect.scope, effect.old.number) in made
    }
    count = 0
    for effect in effects:
        if effect.table not in _WATCHED or effect.old is None:
            continue
        if effect.new is not None:
            count += not _references(effect.old) <= _references(effect.new)
        elif effect.table is SNAPSHOTS:
            count += (effect.scope[0], f"snapshots/{effect.scope[1]}", effect.key) not in renamed
        elif effect.table is RESOURCES:
            count += (effect.scope[0], effect.old.type, effect.old.id) not in renamed
        else:
            count += 1
    return count


def _is_made(effect: Effect) -> bool:
    return effect.table is SNAPSHOTS and effect.old is None and effect.new is not None


def _references(record: Any) -> set[tuple[str, str]]:
    """What a record keeps from being garbage, itself by a label included."""
    labels: Mapping[str, str] = getattr(getattr(record, "info", record), "labels", {})
    found = {pair for pair in labels.items() if pair[0].startswith(_LABELS)}
    if (target := getattr(record, "target", None)) is not None:
        found.add(("", target.digest))
    if key := getattr(record, "snapshot_key", ""):
        found.add((record.snapshotter, key))
    return found
