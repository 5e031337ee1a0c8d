"""Tasks: the running side of containers (containerd.services.tasks.v1.Tasks).

A task has a first process, its init, whose exec id is empty, and further ones made by exec. Each process goes
created → running → stopped and stays, with its exit status, until it is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.oci.descriptor import Descriptor

RUNC = "io.containerd.runc.v2"
"""The runtime that every client asks for if it has no other wish."""


class Status(IntEnum):
    """Values as on the wire (containerd.v1.types.Status)."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@dataclass(frozen=True, slots=True)
class TaskIO:
    """Where the streams go: a fifo's path or a URI (``file://``, ``binary://``, ``log://``); empty is /dev/null."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """State of a task's first process (``exec_id`` empty) or of an exec."""

    container_id: str
    exec_id: str
    pid: int
    status: Status
    io: TaskIO
    exit_status: int = 0
    exited_ns: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: exit code, or 128 + the signal's number."""

    pid: int
    status: int
    exited_ns: int


@dataclass(frozen=True, slots=True)
class Metric:
    """What a task uses (``io.containerd.cgroups.v1.Metrics`` or ``….v2.Metrics``)."""

    id: str
    timestamp_ns: int
    data: AnyMessage


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process in a task; ``info`` tells execs apart (containerd.runc.v1.ProcessDetails)."""

    pid: int
    info: AnyMessage | None = None


class TaskService(Protocol):
    """The tasks of one namespace. Every call on a missing task or exec is NotFound."""

    async def create(
        self, container_id: str, rootfs: Sequence[Mount], io: TaskIO,
        *, options: AnyMessage | None = None, checkpoint: Descriptor | None = None, runtime_path: str = "",
    ) -> int:  # fmt: skip
        """Make the task of an existing container up to the point before execve; the pid of its init."""
        ...

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Let it run; its pid."""
        ...

    async def exec(self, container_id: str, exec_id: str, spec: AnyMessage, io: TaskIO) -> None:
        """Add a process (``spec`` is a runtime-spec Process as JSON); ``start`` runs it."""
        ...

    async def get(self, container_id: str, exec_id: str = "") -> Process:
        """Its state; answered from our own record if the shim does not."""
        ...

    async def list(self) -> Sequence[Process]:
        """The first process of every task."""
        ...

    async def wait(self, container_id: str, exec_id: str = "") -> Exit:
        """Returns when the process has ended, at once if it has; not bound to any event."""
        ...

    async def delete(self, container_id: str, exec_id: str = "") -> Exit:
        """Remove a process that is stopped or was never started (FailedPrecondition if it runs); how it ended."""
        ...

    async def kill(self, container_id: str, signal: int, exec_id: str = "", all: bool = False) -> None:
        """Send ``signal``; NotFound if the process has ended."""
        ...

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        """Tell its terminal how large the window is."""
        ...

    async def close_io(self, container_id: str, exec_id: str = "", stdin: bool = True) -> None:
        """End its standard input."""
        ...

    async def pause(self, container_id: str) -> None:
        """Freeze all its processes."""
        ...

    async def resume(self, container_id: str) -> None:
        """Undo pause."""
        ...

    async def pids(self, container_id: str) -> Sequence[ProcessInfo]:
        """All processes in its cgroup."""
        ...

    async def update(self, container_id: str, resources: AnyMessage, annotations: dict[str, str] | None = None) -> None:
        """Change limits (runtime-spec LinuxResources as JSON)."""
        ...

    async def metrics(self, filters: Sequence[str] = ()) -> Sequence[Metric]:
        """Usage of the tasks that match (``id==…``); one that does not answer in time is left out."""
        ...
