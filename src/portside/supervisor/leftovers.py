"""What is left of a task whose shim is dead or does not answer: its processes and control group, told from its record.

The ladder, each step only if the one before did not do: SIGKILL to the first process by pidfd, SIGKILL to everything in
the control group, SIGKILL to the shim, then the group is removed. Blocking: call it in a thread.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from portside.core.tasks import Exit, Process, Status, TaskIO
from portside.errors import PortsideError
from portside.linux import pidfd as linux
from portside.linux.cgroups import Cgroup
from portside.runtime.naming import cgroup_path
from portside.shim import record as shim_record

KILLED = 128 + signal.SIGKILL
"""The status of a process that ended while nobody looked: what its end must have been, or the best there is to say."""
KILL_TIMEOUT = 5.0
"""Seconds for a process to go after SIGKILL; longer only if it waits for a device that does not answer."""

SWEEP_TIMEOUT = 2.0
"""Seconds that an unfinished first process may take to leave."""


@dataclass(frozen=True, slots=True)
class Record:
    """A shim's ``state.json``, checked."""

    namespace: str
    id: str
    shim_pid: int
    shim_start: int
    cgroup: str
    runtime: tuple[str, ...]
    processes: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, bundle: str) -> Record | None:
        """The record in ``bundle``; None without one that makes sense: then no task was ever made there."""
        found = shim_record.read(bundle)
        if found is None or "" not in found["processes"]:
            return None
        try:
            processes = {str(name): dict(fields) for name, fields in found["processes"].items()}
            for fields in processes.values():
                for key in ("pid", "start", "status", "exit_status", "exited_ns"):
                    fields[key] = int(fields[key])
            shim = found["shim"]
            return cls(
                str(found["namespace"]), str(found["id"]), int(shim["pid"]), int(shim["start"]),
                str(found["cgroup"]), tuple(map(str, found.get("runtime", ()))), processes,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def alive(self, exec_id: str = "") -> bool:
        """Whether the process is there: the number, and the same start as recorded."""
        fields = self.processes.get(exec_id)
        return (
            fields is not None and fields["pid"] > 0 and shim_record.start_time(fields["pid"]) == fields["start"] != 0
        )

    def shim_alive(self) -> bool:
        """Whether the shim's process is there."""
        return self.shim_pid > 0 and shim_record.start_time(self.shim_pid) == self.shim_start != 0

    def exit(self, exec_id: str = "") -> Exit:
        """How the process ended: as its shim recorded it, else killed, now."""
        fields = self.processes[exec_id]
        if fields["status"] == Status.STOPPED:
            return Exit(fields["pid"], fields["exit_status"], fields["exited_ns"])
        return Exit(fields["pid"], KILLED, time.time_ns())

    def state(self, exec_id: str, ended: Exit | None = None) -> Process:
        """The process as far as one can tell without the shim; ``ended`` if we know more."""
        fields = self.processes[exec_id]
        stdin, stdout, stderr = (str(fields.get(name, "")) for name in ("stdin", "stdout", "stderr"))
        io = TaskIO(stdin, stdout, stderr, bool(fields.get("terminal")))
        if ended is None and fields["status"] != Status.STOPPED and self.alive(exec_id):
            return Process(self.id, exec_id, fields["pid"], Status.RUNNING, io)
        ended = ended or self.exit(exec_id)
        return Process(self.id, exec_id, fields["pid"], Status.STOPPED, io, ended.status, ended.exited_ns)


def kill_shim(record: Record) -> bool:
    """SIGKILL to the shim; whether it is gone."""
    return _kill(record.shim_pid, record.shim_start)


def clean(record: Record) -> None:
    """Climb the ladder to its end: afterwards neither process nor control group of the task is left.

    What withstands even that (a process in an uninterruptible wait) stays, and is worth a line in a log: OSError,
    DeadlineExceeded or TimeoutExpired.
    """
    # The shim first where it is alive but mute: it could otherwise wake up and act on a task that is no more.
    kill_shim(record)
    signal_process(record, signal.SIGKILL)
    cgroup = Cgroup.open(record.cgroup) if record.cgroup else None
    if cgroup is not None and cgroup.exists():
        cgroup.kill()  # Thaws it too: what is frozen does not die.
    for fields in record.processes.values():
        if fields["status"] != Status.STOPPED:
            _kill(fields["pid"], fields["start"])
    if record.runtime:
        subprocess.run(
            [*record.runtime, "delete", "--force", record.id], timeout=KILL_TIMEOUT, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    if cgroup is not None and cgroup.exists():
        cgroup.remove(KILL_TIMEOUT)


def sweep(bundle: str, id: str) -> None:
    """What is left where no task was recorded: a shim that was killed while it made one leaves its control group.

    Its first process leaves by itself when the shim is gone. A group that others use stays. OSError, PortsideError.
    """
    try:
        spec = json.loads(shim_record.read_file(f"{bundle}/config.json", shim_record.MAX_RECORD))
        path = str((spec.get("linux") or {}).get("cgroupsPath") or "")
    except (FileNotFoundError, ValueError, AttributeError):
        return
    systemd = path.count(":") == 2 and not path.startswith("/")
    cgroup = Cgroup.open(cgroup_path(path, id, systemd))
    if cgroup.path == "/" or not cgroup.exists():
        return
    end = time.monotonic() + SWEEP_TIMEOUT
    while cgroup.pids():
        if time.monotonic() > end:
            return
        time.sleep(0.01)
    cgroup.remove(KILL_TIMEOUT)


def signal_process(record: Record, number: int, exec_id: str = "") -> bool:
    """Send a signal past a shim that does not answer; whether there was a process to get it."""
    fd = _open(record.processes[exec_id]["pid"], record.processes[exec_id]["start"])
    if fd < 0:
        return False
    try:
        linux.send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def _kill(pid: int, start: int) -> bool:
    fd = _open(pid, start)
    if fd < 0:
        return True
    try:
        linux.send_signal(fd, signal.SIGKILL)
        return linux.wait_exit(fd, KILL_TIMEOUT)
    except (ProcessLookupError, PortsideError):
        return True
    finally:
        os.close(fd)


def _open(pid: int, start: int) -> int:
    """A pidfd of exactly that process, or -1: the start is compared after the descriptor holds the number."""
    if pid <= 0 or not start:
        return -1
    try:
        fd = linux.pidfd_open(pid)
    except OSError:
        return -1
    if shim_record.start_time(pid) != start:
        os.close(fd)
        return -1
    return fd
