"""Groups that systemd makes for us: a transient scope unit, on version 2 (org.freedesktop.systemd1).

Where systemd manages the tree it does not know groups that others make, and may take controllers away from them; a
scope with ``Delegate`` is ours with its blessing. Limits go to systemd as properties, since it writes its own again at
times, and to the files, for what has no property.

systemd starts a scope only around a process. The container's is made later, straight into the group; until it is
there, a child of ours keeps the place. It ends by itself, and whoever waits for children of this process sees it end.
"""

from __future__ import annotations

import os
import time

from portside.errors import AlreadyExists, InvalidArgument, Unknown
from portside.linux import signals
from portside.linux.cgroups import limits_v2
from portside.linux.cgroups.cgroup import REMOVE_TIMEOUT
from portside.linux.cgroups.dbus import Bus, DBusError
from portside.linux.cgroups.tree import remove_tree
from portside.linux.cgroups.v2 import CgroupV2, device_rules
from portside.linux.cgroups.writes import apply_writes, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Self

    from portside.linux.cgroups.layout import Layout

    Property = tuple[str, tuple[str, Any]]

_NAME, _PATH, _MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_INFINITY = (1 << 64) - 1
_MAX_CPUS = 1 << 16
_KEEPERS_LIFE, _KEEPERS_PAUSE = 120.0, 0.01
"""Seconds: how long a place is kept at most, and how often it is looked whether it is taken."""


class CgroupSystemd(CgroupV2):
    """A scope; its path ends in ``….slice/NAME.scope``."""

    def __init__(self, path: str, layout: Layout) -> None:
        super().__init__(path, layout)
        above, _, self._unit = self.path.rpartition("/")
        self._slice = above.rpartition("/")[2]
        if not self._unit.endswith(".scope") or not self._slice.endswith(".slice"):
            raise InvalidArgument(f"cgroup {path}: with systemd it must be a scope in a slice")
        self._keeper = 0

    def _make(self, resources: Mapping[str, Any]) -> None:
        writes, rules = limits_v2.plan(resources), device_rules(resources)
        properties = limit_properties(resources)
        self._keeper = _make_keeper(f"{self._directory}/cgroup.procs")
        try:
            self._start(properties)
        except BaseException:
            self._end_keeper()  # a unit of that name is somebody else's
            raise
        try:
            apply_writes(writes, self._directory_of)
            if rules is not None:
                self._filter_devices(rules)
        except BaseException:
            self.remove()
            raise

    def _start(self, limits: list[Property]) -> None:
        properties: list[Property] = [
            ("Description", ("s", f"container {self._unit.removesuffix('.scope')}")),
            ("Slice", ("s", self._slice)),
            ("PIDs", ("au", [self._keeper])),
            ("Delegate", ("b", True)),
            ("DefaultDependencies", ("b", False)),
            # Forgotten when it ends, even if it ended badly: out of memory is a failure to systemd.
            ("CollectMode", ("s", "inactive-or-failed")),
            *((f"{name}Accounting", ("b", True)) for name in ("CPU", "Memory", "IO", "Tasks")),
            *limits,
        ]
        with _Manager() as manager:
            try:
                manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", [self._unit, "replace", properties, []])
            except DBusError as error:
                if error.name.endswith(".UnitExists"):
                    raise AlreadyExists(f"cgroup {self.path}: systemd has a unit of that name") from error
                raise Unknown(f"cgroup {self.path}: systemd: {error}") from error

    def attach(self, pid: int, *, cloned: bool = False, beside: int = 0) -> None:
        """See ``Cgroup.attach``; the first process takes the place that was kept, at once."""
        super().attach(pid, cloned=cloned, beside=beside)
        self._end_keeper()

    def _end_keeper(self) -> None:
        keeper, self._keeper = self._keeper, 0
        if keeper:
            try:
                # Somebody else here may have waited for it already, and then its number may be another's.
                if os.waitpid(keeper, os.WNOHANG) == (0, 0):
                    os.kill(keeper, signals.SIGKILL)
                    os.waitpid(keeper, 0)
            except (ChildProcessError, ProcessLookupError):
                return

    def update(self, resources: Mapping[str, Any]) -> None:
        """See ``Cgroup.update``."""
        properties = limit_properties(resources)
        if properties:
            with _Manager() as manager:
                manager.call("SetUnitProperties", "sba(sv)", [self._unit, True, properties])
        super().update(resources)

    def remove(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """See ``Cgroup.remove``; returns when systemd has forgotten the unit, so that its name is free."""
        self._end_keeper()
        remove_tree(self._directory, timeout)
        with _Manager() as manager:
            try:
                manager.job("StopUnit", "ss", [self._unit, "replace"])
            except DBusError as error:
                if not error.name.endswith(".NoSuchUnit"):
                    raise Unknown(f"cgroup {self.path}: systemd: {error}") from error


def _make_keeper(procs: str) -> int:
    """A child that waits until another process is in the group, with nothing of ours open and no handler of ours."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
            signals.reset(number)
        os.closerange(0, 1 << 20)
        for _ in range(int(_KEEPERS_LIFE / _KEEPERS_PAUSE)):
            # Nothing tells of a process that joins; when a group is just being made, asking is cheap enough.
            time.sleep(_KEEPERS_PAUSE)
            if os.path.exists(procs) and read_file(procs).count("\n") >= 1:
                break
    finally:
        os._exit(0)


class _Manager:
    """systemd on the system bus; use it in a ``with`` statement."""

    def __init__(self) -> None:
        self._bus = Bus()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bus.close()

    def call(self, member: str, signature: str = "", values: Sequence[Any] = ()) -> list[Any]:
        """As ``Bus.call``."""
        return self._bus.call(_NAME, _PATH, _MANAGER, member, signature, values)

    def job(self, member: str, signature: str, values: Sequence[Any]) -> None:
        """A call that queues a job; returns when the job is done, Unknown if it failed."""
        match = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
        bus = "org.freedesktop.DBus"
        self._bus.call(bus, "/org/freedesktop/DBus", bus, "AddMatch", "s", [match])
        self.call("Subscribe")
        (job,) = self.call(member, signature, values)
        while True:
            _number, path, unit, result = self._bus.wait_signal("JobRemoved")
            if path == job:
                break
        if result != "done":
            raise Unknown(f"systemd: {member} of {unit}: the job ended as {result!r}")


def limit_properties(resources: Mapping[str, Any]) -> list[Property]:
    """What of ``linux.resources`` systemd has properties for (systemd.resource-control(5)), with our values."""
    found: list[Property] = []
    for write in limits_v2.plan(resources):
        if name := _AMOUNTS.get(write.file):
            value = write.value.removeprefix("default ")
            found.append((name, ("t", _INFINITY if value == "max" else int(value))))
        elif name := _SETS.get(write.file):
            found.append((name, ("ay", _bits(write.value))))
        elif write.file == "cpu.max":
            quota, period = write.value.split()
            # Per second of time; systemd rounds up to a multiple of 10 ms, and the file is written exactly after it.
            share = _INFINITY if quota == "max" else -(-int(quota) * 1_000_000 // int(period))
            found += [("CPUQuotaPerSecUSec", ("t", share)), ("CPUQuotaPeriodUSec", ("t", int(period)))]
    return found


_AMOUNTS = {
    "cpu.weight": "CPUWeight",
    "io.weight": "IOWeight",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _bits(text: str) -> list[int]:
    """``0-2,5`` as bytes with a bit for each number, the lowest first."""
    mask = 0
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) >= _MAX_CPUS:
            raise InvalidArgument(f"linux.resources.cpu: {text[:80]!r} is not a list of numbers and ranges")
        mask |= (2 << int(last or first)) - (1 << int(first))
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))
