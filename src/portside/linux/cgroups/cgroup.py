"""``Cgroup``: one control group by its path, in whatever hierarchies this machine has.

The interface of the package; ``v1`` and ``v2`` are its two implementations. A ``Cgroup`` is a name, not a handle: it
holds no descriptors and may be made again from its path in another process.
"""

from __future__ import annotations

import os

from portside.errors import PortsideError, Unimplemented
from portside.linux import signals
from portside.linux.cgroups.layout import check_path, require_layout
from portside.linux.cgroups.tree import pids_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from portside.linux.cgroups.layout import Layout
    from portside.linux.cgroups.oom import OomWatch

FREEZE_TIMEOUT = 10.0
"""How long to wait for a group to be frozen, in seconds; a process in an uninterruptible wait delays it."""
REMOVE_TIMEOUT = 10.0
"""How long ``remove`` tries while the kernel says busy, in seconds."""


class Cgroup:
    """One control group and those below it.

    Failures of the kernel are OSError with errno, value and file; what cannot be meant is InvalidArgument.
    """

    path: str
    """From the top of the mounted hierarchies, absolute: ``/default/web``."""
    version: int
    """1 (legacy and hybrid layouts) or 2."""

    @staticmethod
    def create(path: str, resources: Mapping[str, Any] | None = None, *, systemd: bool = False) -> Cgroup:
        """Make the group ``path`` with the limits of an OCI ``linux.resources`` object.

        The path starts at the top of the hierarchies, as containerd has it; a relative one, with version 2, at the
        group of this process. An existing group is taken over if no process is in it, else FailedPrecondition. After
        a failure nothing that this call made is left.

        With ``systemd`` (version 2 only, else Unimplemented) it is a scope that systemd starts; the path must say
        ``….slice/NAME.scope`` as systemd would place it. A child of this process keeps the place for the first one.
        """
        made = _implementation(path, systemd)
        made._make(resources or {})
        return made

    @staticmethod
    def open(path: str, *, systemd: bool = False) -> Cgroup:
        """The group ``path``, without looking whether it exists; ``systemd`` as when it was made."""
        return _implementation(path, systemd)

    def exists(self) -> bool:
        """Whether the group is there (on version 1: in any hierarchy)."""
        return any(os.path.isdir(directory) for directory in self.directories())

    def directories(self) -> list[str]:
        """The group's directory in each hierarchy."""
        raise NotImplementedError

    def sub(self, path: str, controllers: Sequence[str] = ()) -> Cgroup:
        """The existing group ``path`` below this one, for a process that joins there (``exec --cgroup``).

        With ``controllers`` (version 1) only theirs; the others stay with this group's own path. A path that climbs
        is InvalidArgument, a group that does not exist FileNotFoundError.
        """
        raise NotImplementedError

    def attach(self, pid: int, *, cloned: bool = False, beside: int = 0) -> None:
        """Move the process ``pid`` (0: the caller) with all its threads into the group.

        ``cloned`` says that it was made there with ``fd_for_clone``, so that only other hierarchies are left to join.
        ``beside`` is a process of the container: where this group may hold no processes since it has groups of its
        own with controllers (version 2), ``pid`` joins that process's group, if it is below this one.
        """
        raise NotImplementedError

    def fd_for_clone(self) -> int:
        """A descriptor for CLONE_INTO_CGROUP, or -1 without version 2. The caller closes it.

        On a hybrid layout it covers the version 2 tree only: ``attach(pid, cloned=True)`` does the rest.
        """
        raise NotImplementedError

    def update(self, resources: Mapping[str, Any]) -> None:
        """Change limits; what ``resources`` does not name stays, device rules too."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """The processes in the group and below, ascending; empty if it has gone."""
        return pids_in(self._main_directory())

    def freeze(self) -> None:
        """Stop all processes; returns when they are. DeadlineExceeded if they do not, after undoing it."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let the processes go on; nothing happens if they are."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether the group is frozen; False if it has gone."""
        raise NotImplementedError

    def kill(self, number: int = signals.SIGKILL) -> None:
        """Send a signal to every process in the group and below, also to those that appear meanwhile.

        A frozen group is thawed by SIGKILL only. Nothing is waited for.
        """
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        """Figures as nested dicts with the fields of ``io.containerd.cgroups.v1.Metrics`` or ``….v2.Metrics``."""
        raise NotImplementedError

    def oom_watch(self) -> OomWatch:
        """Tells of processes killed for want of memory. The caller closes it."""
        raise NotImplementedError

    def remove(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """Remove the group and those below it, in every hierarchy; nothing happens if it has gone.

        Retried while the kernel says busy, for ``timeout`` seconds; then OSError (EBUSY).
        """
        raise NotImplementedError

    def _make(self, resources: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _main_directory(self) -> str:
        """Where the processes are counted."""
        raise NotImplementedError

    def _signal_all(self, number: int) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _kill_frozen(self, number: int) -> None:
        """Freeze, so that no process can fork out of sight, signal all, thaw."""
        was_frozen = self.frozen()
        try:
            if not was_frozen:
                self.freeze()
        except (OSError, PortsideError):
            # Without a freezer, or with a process that cannot be stopped, signals are all there is.
            was_frozen = False
        try:
            self._signal_all(number)
        finally:
            if not was_frozen or number == signals.SIGKILL:
                self.thaw()


def _implementation(path: str, systemd: bool) -> Cgroup:
    # Here, since they implement the class above; the last one, with its D-Bus, only where it is wanted.
    from portside.linux.cgroups.v1 import CgroupV1
    from portside.linux.cgroups.v2 import CgroupV2

    found: Layout = require_layout()
    if systemd:
        if found.mode != "unified":
            raise Unimplemented(f"cgroup {path}: groups by systemd need cgroup v2 alone, this machine is {found.mode}")
        from portside.linux.cgroups.systemd import CgroupSystemd

        return CgroupSystemd(check_path(path), found)
    return (CgroupV2 if found.mode == "unified" else CgroupV1)(check_path(path), found)
