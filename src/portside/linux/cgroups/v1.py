"""A control group of version 1: the same path in each mounted hierarchy (kernel: admin-guide/cgroup-v1).

On a hybrid layout the version 2 tree is one hierarchy more. It has no controllers, but ``cgroup.kill`` and
CLONE_INTO_CGROUP, and costs a tenth of a millisecond.
"""

from __future__ import annotations

import errno
import os
import time

from portside.errors import DeadlineExceeded, FailedPrecondition
from portside.linux import signals
from portside.linux.cgroups import devices, limits_v1
from portside.linux.cgroups.cgroup import FREEZE_TIMEOUT, REMOVE_TIMEOUT, Cgroup
from portside.linux.cgroups.layout import check_path
from portside.linux.cgroups.oom import OomWatch, OomWatchV1
from portside.linux.cgroups.resources import integer, section
from portside.linux.cgroups.stats_v1 import stats
from portside.linux.cgroups.tree import pids_in, remove_tree
from portside.linux.cgroups.v2 import kill_directory, refuse_less_than_used, refuse_occupied
from portside.linux.cgroups.writes import Write, apply_writes, read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from portside.linux.cgroups.layout import Layout

_COUNTED_IN = ("freezer", "pids", "devices", "memory", "cpu")
"""The hierarchy whose list of processes counts is the first of these that is mounted."""


class CgroupV1(Cgroup):
    """One directory in each hierarchy."""

    version = 1

    def __init__(self, path: str, layout: Layout) -> None:
        self._layout = layout
        self.path = "/" + path.lstrip("/")
        mounts = [*layout.hierarchies(), *([layout.v2] if layout.v2 else [])]
        self._directories = {mount: mount + self.path for mount in mounts}
        self._main = self._directories[self._main_mount()]

    def _main_mount(self) -> str:
        mounts = self._layout.v1
        return next((mounts[name] for name in _COUNTED_IN if name in mounts), next(iter(mounts.values())))

    def directories(self) -> list[str]:
        """One for each hierarchy, version 2 last."""
        return list(self._directories.values())

    def _main_directory(self) -> str:
        return self._main

    def _directory_of(self, controller: str) -> str:
        mount = self._layout.v1.get(controller)
        if mount is None:
            raise FailedPrecondition(
                f"cgroup {self.path}: a limit needs the {controller} controller, which is not mounted"
            )
        return self._directories[mount]

    def _make(self, resources: Mapping[str, Any]) -> None:
        writes = [*limits_v1.plan(resources), *_device_writes(resources)]
        made: list[str] = []
        try:
            for directory in self._directories.values():
                if _make_directory(directory):
                    made.append(directory)
                else:
                    refuse_occupied(self.path, directory)
            if "cpuset" in self._layout.v1:
                _inherit_cpuset(self._directory_of("cpuset"), self._layout.v1["cpuset"])
            apply_writes(writes, self._directory_of)
        except BaseException:
            for directory in made:
                remove_tree(directory, 0)
            raise

    def sub(self, path: str, controllers: Sequence[str] = ()) -> Cgroup:
        """See ``Cgroup.sub``."""
        below = "/" + check_path(path).lstrip("/")
        mounts = {self._mount_of(controller) for controller in controllers} or set(self._directories)
        found = CgroupV1.__new__(CgroupV1)
        found._layout = self._layout
        found.path = self.path + below
        found._directories = {
            mount: directory + below if mount in mounts else directory for mount, directory in self._directories.items()
        }
        if not controllers:
            # Whoever makes groups inside a container makes them in the hierarchies it sees, seldom in all.
            for mount, directory in self._directories.items():
                if not os.path.isdir(directory + below):
                    found._directories[mount] = directory
            mounts = {mount for mount in mounts if found._directories[mount] != self._directories[mount]}
        missing = [found._directories[mount] for mount in mounts if not os.path.isdir(found._directories[mount])]
        if missing or not mounts:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), *(missing[:1] or [found.path]))
        found._main = found._directories[self._main_mount()]
        return found

    def _mount_of(self, controller: str) -> str:
        mount = self._layout.v1.get(controller) or self._layout.v1.get(f"name={controller}")
        if mount is None:
            raise FailedPrecondition(f"cgroup {self.path}: the controller {controller!r} is not mounted")
        return mount

    def attach(self, pid: int, *, cloned: bool = False, beside: int = 0) -> None:
        """See ``Cgroup.attach``."""
        for mount, directory in self._directories.items():
            if mount == self._layout.v2 and (cloned or not os.path.isdir(directory)):
                continue  # not there: made by a runtime that knows version 1 only
            write_file(f"{directory}/cgroup.procs", str(pid))

    def fd_for_clone(self) -> int:
        """See ``Cgroup.fd_for_clone``."""
        if not self._layout.v2:
            return -1
        return os.open(self._directories[self._layout.v2], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def update(self, resources: Mapping[str, Any]) -> None:
        """See ``Cgroup.update``."""
        writes = [*limits_v1.plan(resources), *_device_writes(resources)]
        memory = section(resources, "memory")
        if memory.get("checkBeforeUpdate"):
            file = f"{self._directory_of('memory')}/memory.usage_in_bytes"
            refuse_less_than_used(file, integer(memory, "limit"), self.path)
        apply_writes(writes, self._directory_of)

    def freeze(self) -> None:
        """See ``Cgroup.freeze``; FailedPrecondition where the freezer is not mounted."""
        file = f"{self._directory_of('freezer')}/freezer.state"
        deadline = time.monotonic() + FREEZE_TIMEOUT
        wait = 0.0005
        write_file(file, "FROZEN")
        # Reading makes the kernel look again; nothing tells when the state changes.
        while read_file(file) != "FROZEN":
            if time.monotonic() >= deadline:
                self.thaw()
                raise DeadlineExceeded(f"cgroup {self.path}: processes did not freeze within {FREEZE_TIMEOUT:g} s")
            time.sleep(wait)
            wait = min(wait * 2, 0.05)
            # A process that was just forked may have been missed; asking again includes it.
            write_file(file, "FROZEN")

    def thaw(self) -> None:
        """See ``Cgroup.thaw``."""
        if "freezer" in self._layout.v1:
            try:
                write_file(f"{self._directory_of('freezer')}/freezer.state", "THAWED")
            except FileNotFoundError:
                return  # the group has gone

    def frozen(self) -> bool:
        """See ``Cgroup.frozen``."""
        if "freezer" not in self._layout.v1:
            return False
        try:
            return read_file(f"{self._directory_of('freezer')}/freezer.state") != "THAWED"
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def kill(self, number: int = signals.SIGKILL) -> None:
        """See ``Cgroup.kill``."""
        v2 = self._directories.get(self._layout.v2, "")
        # That is complete only if everybody joined the version 2 tree as well, which other runtimes do not see to.
        if v2 and set(self.pids()) <= set(pids_in(v2)) and kill_directory(v2, number):
            if self.frozen():
                self.thaw()
        else:
            self._kill_frozen(number)

    def stats(self) -> dict[str, Any]:
        """``io.containerd.cgroups.v1.Metrics``."""
        return stats({name: self._directories[mount] for name, mount in self._layout.v1.items()})

    def oom_watch(self) -> OomWatch:
        """See ``Cgroup.oom_watch``; FailedPrecondition without the memory controller."""
        return OomWatchV1(self._directory_of("memory"))

    def remove(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """See ``Cgroup.remove``."""
        deadline = time.monotonic() + timeout
        for directory in self._directories.values():
            remove_tree(directory, max(0.0, deadline - time.monotonic()))


def _device_writes(resources: Mapping[str, Any]) -> list[Write]:
    found = resources.get("devices")
    return [] if found is None else devices.plan_v1(devices.parse_rules(found))


def _make_directory(directory: str) -> bool:
    """Make it and what is missing above; False if it was there."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(directory, 0o755, exist_ok=True)
    return True


def _inherit_cpuset(directory: str, mount: str) -> None:
    """Give a new group its parent's processors and memory nodes: without any, no process may join."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not read_file(f"{directory}/{file}"):
            above = os.path.dirname(directory)
            if len(above) > len(mount):
                _inherit_cpuset(above, mount)
            write_file(f"{directory}/{file}", read_file(f"{above}/{file}"))
