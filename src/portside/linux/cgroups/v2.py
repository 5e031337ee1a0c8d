"""A control group of version 2 (kernel: admin-guide/cgroup-v2)."""

from __future__ import annotations

import errno
import os
import select
import time

from portside.errors import DeadlineExceeded, FailedPrecondition
from portside.linux import signals
from portside.linux.cgroups import bpf, devices, limits_v2
from portside.linux.cgroups.cgroup import FREEZE_TIMEOUT, REMOVE_TIMEOUT, Cgroup
from portside.linux.cgroups.layout import check_path, membership_of
from portside.linux.cgroups.oom import OomWatch, OomWatchV2
from portside.linux.cgroups.resources import integer, section
from portside.linux.cgroups.stats_v2 import stats
from portside.linux.cgroups.tree import remove_tree
from portside.linux.cgroups.writes import apply_writes, read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from portside.linux.cgroups.layout import Layout


class CgroupV2(Cgroup):
    """One directory below the mount point of version 2."""

    version = 2

    def __init__(self, path: str, layout: Layout) -> None:
        if not path.startswith("/"):
            own = layout.unified_path(membership_of()).rstrip("/")
            path = f"{own}/{path}"
        self.path = path
        self._mount = layout.v2
        self._layout = layout
        self._directory = layout.v2 + path

    def directories(self) -> list[str]:
        """The one directory."""
        return [self._directory]

    def _main_directory(self) -> str:
        return self._directory

    def _make(self, resources: Mapping[str, Any]) -> None:
        writes = limits_v2.plan(resources)
        rules = device_rules(resources)
        made = make_directory(self._mount, self.path)
        try:
            if not made:
                refuse_occupied(self.path, self._directory)
            apply_writes(writes, self._directory_of)
            if rules is not None:
                self._filter_devices(rules)
        except BaseException:
            if made:
                remove_tree(self._directory, 0)
            raise

    def _directory_of(self, _controller: str) -> str:
        return self._directory

    def _filter_devices(self, rules: list[devices.Rule]) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpf.replace_device_filter(fd, None if devices.allows_all(rules) else devices.program(rules))
        finally:
            os.close(fd)

    def sub(self, path: str, controllers: Sequence[str] = ()) -> Cgroup:
        """See ``Cgroup.sub``; version 2 knows no groups by controller, so ``controllers`` may not be given."""
        if controllers:
            raise FailedPrecondition(f"cgroup {self.path}: version 2 has one tree for all controllers")
        found = CgroupV2(f"{self.path}/{check_path(path).lstrip('/')}", self._layout)
        os.stat(found._directory)
        return found

    def attach(self, pid: int, *, cloned: bool = False, beside: int = 0) -> None:
        """See ``Cgroup.attach``."""
        if cloned:
            return
        try:
            write_file(f"{self._directory}/cgroup.procs", str(pid))
        except OSError as error:
            if error.errno != errno.EBUSY or not beside:
                raise
            inner = self._layout.unified_path(membership_of(beside))
            if not inner.startswith(self.path + "/"):
                raise
            write_file(f"{self._mount}{inner}/cgroup.procs", str(pid))

    def fd_for_clone(self) -> int:
        """See ``Cgroup.fd_for_clone``."""
        return os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def update(self, resources: Mapping[str, Any]) -> None:
        """See ``Cgroup.update``."""
        writes = limits_v2.plan(resources)
        rules = device_rules(resources)
        memory = section(resources, "memory")
        if memory.get("checkBeforeUpdate"):
            refuse_less_than_used(f"{self._directory}/memory.current", integer(memory, "limit"), self.path)
        apply_writes(writes, self._directory_of)
        if rules is not None:
            self._filter_devices(rules)

    def freeze(self) -> None:
        """See ``Cgroup.freeze``."""
        write_file(f"{self._directory}/cgroup.freeze", "1")
        if not self._wait_frozen(FREEZE_TIMEOUT):
            self.thaw()
            raise DeadlineExceeded(f"cgroup {self.path}: processes did not freeze within {FREEZE_TIMEOUT:g} s")

    def _wait_frozen(self, timeout: float) -> bool:
        """The kernel marks ``cgroup.events`` as changed (POLLPRI) when the last process has stopped."""
        deadline = time.monotonic() + timeout
        fd = os.open(f"{self._directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while b"frozen 1" not in os.pread(fd, 256, 0):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
            return True
        finally:
            os.close(fd)

    def thaw(self) -> None:
        """See ``Cgroup.thaw``."""
        write_file(f"{self._directory}/cgroup.freeze", "0")

    def frozen(self) -> bool:
        """See ``Cgroup.frozen``; tells what was asked for, as soon as it was asked."""
        try:
            return read_file(f"{self._directory}/cgroup.freeze") == "1"
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def kill(self, number: int = signals.SIGKILL) -> None:
        """See ``Cgroup.kill``."""
        if not kill_directory(self._directory, number):
            self._kill_frozen(number)

    def stats(self) -> dict[str, Any]:
        """``io.containerd.cgroups.v2.Metrics``."""
        return stats(self._directory)

    def oom_watch(self) -> OomWatch:
        """See ``Cgroup.oom_watch``; FileNotFoundError without the memory controller."""
        return OomWatchV2(self._directory)

    def remove(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """See ``Cgroup.remove``."""
        remove_tree(self._directory, timeout)


def device_rules(resources: Mapping[str, Any]) -> list[devices.Rule] | None:
    """The parsed rules, or None where ``resources`` says nothing of devices and nothing is to change."""
    found = resources.get("devices")
    return None if found is None else devices.parse_rules(found)


def kill_directory(directory: str, number: int) -> bool:
    """Kill all below by ``cgroup.kill`` (Linux 5.14); False where that cannot be: another signal, an older kernel."""
    if number != signals.SIGKILL:
        return False
    try:
        write_file(f"{directory}/cgroup.kill", "1")
    except FileNotFoundError:
        # Either the kernel is older or the group has gone, and then there is nothing to kill.
        return not os.path.isdir(directory)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return True
        if error.errno == errno.EOPNOTSUPP:  # a threaded group
            return False
        raise
    return True


def make_directory(mount: str, path: str) -> bool:
    """Make ``path`` and what is missing above it, with every controller on; False if it was there."""
    directory = mount + path
    try:
        os.makedirs(directory, 0o755)
        made = True
    except FileExistsError:
        made = False
    if made:
        wanted = read_file(f"{mount}/cgroup.controllers").split()
        # Below a parent that has them on already, which is the common case, this read is all.
        if not set(wanted) <= set(read_file(f"{directory}/cgroup.controllers").split()):
            _enable_controllers(mount, path)
    return made


def _enable_controllers(mount: str, path: str) -> None:
    """Turn on in all groups above ``path`` what each has to give.

    All of a group's or, where that is refused, none: one that has processes may give the controllers that know
    threads, but would turn into a tree of threads by that, in which no process may join. Whether a controller that
    stays off matters is seen when a limit of it is written.
    """
    directory = mount
    for part in path.strip("/").split("/"):
        available = read_file(f"{directory}/cgroup.controllers").split()
        try:
            write_file(f"{directory}/cgroup.subtree_control", " ".join("+" + name for name in available))
        except OSError:
            return
        directory = f"{directory}/{part}"


def refuse_occupied(path: str, directory: str) -> None:
    """FailedPrecondition if processes are in the existing group, which would come under our limits."""
    if count := len(read_file(f"{directory}/cgroup.procs").split()):
        raise FailedPrecondition(f"cgroup {path}: it is not empty, {count} process(es) are in it")


def refuse_less_than_used(file: str, limit: int | None, path: str) -> None:
    """FailedPrecondition if ``limit`` is below what ``file`` says is in use (``checkBeforeUpdate``)."""
    if limit and 0 < limit < (used := int(read_file(file))):
        raise FailedPrecondition(f"cgroup {path}: memory limit {limit} is below the {used} bytes in use")
