"""When to collect garbage: after a start, after removals and many changes, and when something expires.

As containerd's scheduler does it (``io.containerd.gc.v1.scheduler``): time after a collection is divided into
intervals, so long that collections take no more than ``pause_threshold`` of it, a quarter of a second or more; at the
end of an interval in which something was removed, or in which the changes reached ``mutation_threshold``, a collection
comes. A client that waits for its removal has one at once. Beyond containerd: an engine that is idle sleeps, and wakes
for what expires by the clock; what could not be freed is tried again, ever more seldom, and holds up nothing else; and
what was made a moment ago is spared by collections that nobody waits for (``metadata/gc.GRACE``).

How garbage is found is not known here (``metadata/gc.py``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portside.core.durations import Seconds, parse_duration
from portside.errors import InvalidArgument, PortsideError
from portside.metadata.gc import Observer, Report
from portside.metadata.references import KIND, expiry, labels_of
from portside.metadata.schema import INGESTS, RESOURCES, SNAPSHOTS
from portside.metadata.state import Effect
from portside.metadata.store import Metadata

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds after which what could not be freed, or a collection that failed, is tried again; then twice that."""
MAX_RETRY = 300.0
_UNLIMITED = 1.0
"""Length of an interval, in seconds, without a ``pause_threshold``."""
_SHORTEST = 0.005
"""What a collection is taken to last at least, in seconds, when the interval is calculated."""
_MAX_SLEEP = 60.0
"""Seconds after which the wall clock is looked at again, as it may be set."""

_LABELS = "containerd.io/gc."


@dataclass(frozen=True, slots=True)
class Policy:
    """The scheduler's settings; times in seconds."""

    pause_threshold: float = 0.02
    """The part of its time that the engine may spend on collections, at most 0.5; 0: one a second at most."""
    deletion_threshold: int = 0
    """Removals after which a collection does not wait for the interval's end; 0: all wait."""
    mutation_threshold: int = 100
    """Changes of any kind after which a collection comes, even if nothing seems to have been removed; 0: never."""
    schedule_delay: Seconds = 0.0
    """A pause before a collection that comes at once, since removals may come in bursts."""
    startup_delay: Seconds = 0.1
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


class Scheduler(Observer):
    """Runs collections of one ``Metadata``. ``start`` begins, ``close`` ends."""

    def __init__(self, metadata: Metadata, policy: Policy | None = None) -> None:
        self._metadata = metadata
        self._policy = policy or Policy()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._deletions = self._mutations = 0
        self._called = 0.0  # when the first change came that calls for a collection
        self._at_once = 0.0  # when to collect without waiting for the interval's end; 0: there is no hurry
        self._next_expiry_ns = 0
        self._retry_at, self._attempts = 0.0, 0
        self._ended, self._interval = time.monotonic(), _UNLIMITED
        self._spent, self._collections = 0.0, 0
        self._reconciled = False
        self.last: Report | None = None
        """The last collection's report."""
        self.error = ""
        """Why the last collection failed; empty if it did not."""
        self.finished: list[Callable[[Report | None], None]] = []
        """Called after each collection, with None after one that failed."""

    def start(self) -> None:
        """Begin."""
        self._metadata.db.mutated.append(self._watch)
        self._metadata.troubles.listeners.append(self._try_again_later)
        self._metadata.collector.observer = self
        self._metadata.collector.delay = self._policy.schedule_delay
        self._task = asyncio.get_running_loop().create_task(self._run(), name="garbage collection")

    async def close(self) -> None:
        """End. A collection that runs is waited for by ``Metadata.close``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._metadata.db.mutated.remove(self._watch)
            self._metadata.troubles.listeners.remove(self._try_again_later)
            self._metadata.collector.observer = Observer()
            self._task = None

    async def prepare(self) -> None:
        """Before the first one, whoever asked for it, what a crash left behind is found."""
        if not self._reconciled:
            await self._metadata.reconcile()
            self._reconciled = True

    def begun(self) -> None:
        """Somebody's collection begins: what was counted so far is its business."""
        self._deletions = self._mutations = 0
        self._at_once, self._next_expiry_ns = 0.0, 0

    def ended(self, report: Report) -> None:
        """It has ended: the next interval begins."""
        self.last, self.error = report, ""
        self._spent += report.record_seconds
        self._collections += 1
        if self._policy.pause_threshold:
            average = max(self._spent / self._collections, _SHORTEST)
            self._interval = average / self._policy.pause_threshold - average
        self._ended = time.monotonic()
        self._expires(report.next_expiry_ns)
        if not report.failures:
            self._attempts, self._retry_at = 0, 0.0
        self._changed.set()
        for listener in self.finished:
            listener(report)

    def failed(self, error: BaseException) -> None:
        """It has failed: what it should have seen is still to be collected."""
        self._note_failure(error)
        for listener in self.finished:
            listener(None)

    async def _run(self) -> None:
        await asyncio.sleep(self._policy.startup_delay)
        self._at_once = time.monotonic()
        while True:
            self._changed.clear()
            wait = self._time_left()
            if wait is not None and wait <= 0:
                await self._act()
                continue
            try:
                async with asyncio.timeout(min(wait, _MAX_SLEEP) if wait is not None else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _time_left(self) -> float | None:
        """Seconds until something is to be done; None if nothing is."""
        now = time.monotonic()
        due = [self._collection_due(now), self._retry_at]
        times = [moment for moment in due if moment]
        return min(times) - now if times else None

    def _collection_due(self, now: float) -> float:
        """When the next collection is due (time.monotonic); 0 if none is."""
        if self.error:
            return self._retry_at
        if self._at_once:
            return self._at_once
        if self._is_called():
            return self._interval_end()
        if self._next_expiry_ns:
            return max(now + (self._next_expiry_ns - time.time_ns()) / 1e9, self._ended + self._interval)
        return 0.0

    def _is_called(self) -> bool:
        return bool(self._deletions) or 0 < self._policy.mutation_threshold <= self._mutations

    def _interval_end(self) -> float:
        """The end of the interval in which the first change came that calls for a collection."""
        passed = max(self._called - self._ended, 0.0)
        return self._ended + max(1, math.ceil(passed / self._interval)) * self._interval

    async def _act(self) -> None:
        """Collect, or only try again what could not be freed."""
        now = time.monotonic()
        is_due = 0 < self._collection_due(now) <= now
        self._retry_at = 0.0
        try:
            if is_due:
                await self._metadata.collect(urgent=False)
                return
            await self._metadata.free()
            if not self._metadata.troubles.texts:
                self._attempts = 0
        except Exception as error:  # perhaps a defect, but without collections the disk fills up
            if not self._retry_at:
                self._note_failure(error)

    def _note_failure(self, error: BaseException) -> None:
        expected = isinstance(error, PortsideError | OSError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        if text != self.error:
            log.warning("garbage collection: %s", text, exc_info=None if expected else error)
        self.error = text
        self._try_again_later()

    def _try_again_later(self) -> None:
        if not self._retry_at:
            self._retry_at = time.monotonic() + min(RETRY * 2**self._attempts, MAX_RETRY)
            self._attempts = min(self._attempts + 1, 16)
            self._changed.set()

    def _watch(self, mutations: Sequence[Sequence[Effect]]) -> None:
        policy, now = self._policy, time.monotonic()
        was_called, was_due = self._is_called(), self._collection_due(now)
        for effects in mutations:
            self._mutations += 1
            self._deletions += any_removal(effects)
            for effect in effects:
                self._note_expiry(effect)
        if self._is_called() and not was_called:
            self._called = now
        if 0 < policy.deletion_threshold <= self._deletions and not self._at_once:
            self._at_once = now + policy.schedule_delay
        due = self._collection_due(now)
        if due and (due < was_due or not was_due):
            self._changed.set()

    def _note_expiry(self, effect: Effect) -> None:
        if effect.new is None or effect.table not in KIND:
            return
        if effect.table is INGESTS:
            self._expires(effect.new.expires_ns)
        elif labels := labels_of(effect.new):
            self._expires(expiry(labels) or 0)

    def _expires(self, end_ns: int) -> None:
        if end_ns > 0 and (not self._next_expiry_ns or end_ns < self._next_expiry_ns):
            self._next_expiry_ns = end_ns


def any_removal(effects: Sequence[Effect]) -> bool:
    """Whether a function's changes may have left garbage: a removal, or a change by which a reference went.

    A snapshot that is committed is not one: it is the same with another name.
    """
    made = {(effect.scope, effect.new.number) for effect in effects if _is_made(effect)}
    renamed = {
        (effect.scope[0], f"snapshots/{effect.scope[1]}", effect.key)
        for effect in effects
        if effect.table is SNAPSHOTS and effect.new is None and (effect.scope, effect.old.number) in made
    }
    return any(effect.old is not None and _is_removal(effect, renamed) for effect in effects)


def _is_removal(effect: Effect, renamed: set[tuple[str, str, str]]) -> bool:
    if effect.table is RESOURCES:
        # A lease lets go of an ingest when it becomes content.
        is_loss = effect.new is None and effect.old.type != "ingests"
        return is_loss and (effect.scope[0], effect.old.type, effect.old.id) not in renamed
    if effect.table not in KIND or effect.table is INGESTS:
        return False
    if effect.new is not None:
        return not _references(effect.old) <= _references(effect.new)
    if effect.table is SNAPSHOTS:
        return (effect.scope[0], f"snapshots/{effect.scope[1]}", effect.key) not in renamed
    return True


def _is_made(effect: Effect) -> bool:
    return effect.table is SNAPSHOTS and effect.old is None and effect.new is not None


def _references(record: Any) -> set[tuple[str, str]]:
    """What a record keeps from being garbage, itself by a label included."""
    found = {pair for pair in labels_of(record).items() if pair[0].startswith(_LABELS)}
    if (target := getattr(record, "target", None)) is not None:
        found.add(("", target.digest))
    if key := getattr(record, "snapshot_key", ""):
        found.add((record.snapshotter, key))
    return found
