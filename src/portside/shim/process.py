"""One process of a task: its first (init) or one added by exec.

    created --start--> running --exit--> stopped

What belongs here: the state, who waits for the end, the terminal. What does not: how processes are made and how they
are remembered (``task.py``).
"""

from __future__ import annotations

import fcntl
import struct
import termios

from portside.errors import FailedPrecondition, NotFound
from portside.linux import signals
from portside.shim.frozen import NotQuiet
from portside.shim.loop import close_fd
from portside.shim.outbox import timestamp
from portside.shim.record import start_time
from portside.shim.rpc import Call
from portside.wire.codec import encode
from portside.wire.tables import containerd_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.stdio import Streams

CREATED: Final = 1
RUNNING: Final = 2
STOPPED: Final = 3
PAUSED: Final = 4
KILLED: Final = 128 + signals.SIGKILL


class WaitAnswer:
    """Answers a Wait call when a process has ended."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self, process: Process) -> None:
        """Answer."""
        self.call.respond(encode(containerd_task.WaitResponse, process.exit()))


class Process:
    """State of one process. Owns its pidfd, its console and its streams."""

    __slots__ = (
        "console", "exec_id", "exit_status", "exited_ns", "pid", "pidfd", "spec", "start", "starting", "status",
        "streams", "waiters",
    )  # fmt: skip

    def __init__(self, exec_id: str, streams: Streams, spec: bytes = b"") -> None:
        self.exec_id = exec_id
        """Empty for the first process."""
        self.streams = streams
        self.spec = spec
        """The runtime-spec Process, as JSON, that an exec is to run."""
        self.starting = False
        """Whether ``start`` was called and is not over."""
        self.pid = 0
        self.pidfd = -1
        self.console = -1
        self.start = 0
        self.status = CREATED
        self.exit_status = 0
        self.exited_ns = 0
        self.waiters: list[Callable[[Process], None]] = []
        """To be called once, when it has ended."""

    def made(self, pid: int, pidfd: int, console: int) -> None:
        """The kernel has it now; ``pidfd`` and ``console`` (or -1) are owned from here on."""
        self.pid, self.pidfd, self.console = pid, pidfd, console
        self.start = start_time(pid)

    def stopped(self, wait_status: int, now_ns: int) -> None:
        """It has been reaped with ``wait_status`` (wait(2))."""
        code = wait_status >> 8 & 0xFF
        number = wait_status & 0x7F
        self.status = STOPPED
        self.exit_status = 128 + number if number else code
        self.exited_ns = now_ns
        fd, self.pidfd = self.pidfd, -1
        close_fd(fd)

    def wait(self, call: Callable[[Process], None]) -> None:
        """Call ``call`` when the process has ended, now if it has."""
        if self.status == STOPPED:
            call(self)
        else:
            self.waiters.append(call)

    def tell_waiters(self) -> None:
        """It has ended, and that is on record."""
        waiters, self.waiters = self.waiters, []
        for call in waiters:
            call(self)

    def kill(self, number: int) -> None:
        """Send a signal to this process alone. NotFound once it has ended, FailedPrecondition before it was started."""
        if self.status == STOPPED:
            raise NotFound(f"process {self.name}: process already finished")
        if self.pidfd < 0:
            raise FailedPrecondition(f"process {self.name}: not started")
        try:
            signals.send(self.pidfd, number)
        except ProcessLookupError:
            raise NotFound(f"process {self.name}: process already finished") from None

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal its size. FailedPrecondition if there is no terminal."""
        if self.console < 0:
            raise FailedPrecondition(f"process {self.name}: has no terminal, or is not started")
        fcntl.ioctl(self.console, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))

    def close_console(self) -> None:
        """Give the terminal back; the copies that the streams use stay theirs."""
        fd, self.console = self.console, -1
        close_fd(fd)

    @property
    def name(self) -> str:
        """For messages."""
        return self.exec_id or "init"

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``; one that is being started, or waited for by ourselves, is not quiet."""
        if self.starting:
            raise NotQuiet
        waits = []
        for waiter in self.waiters:
            if not isinstance(waiter, WaitAnswer):
                raise NotQuiet
            waits.append(waiter.call.freeze(ice))
        return {
            "exec_id": self.exec_id,
            "spec": self.spec.decode("latin-1"),
            "pid": self.pid,
            "pidfd": ice.put(self.pidfd),
            "console": ice.put(self.console),
            "start": self.start,
            "status": self.status,
            "exit": [self.exit_status, self.exited_ns],
            "waits": waits,
            "streams": self.streams.freeze(ice),
        }

    @classmethod
    def thaw(cls, ice: Thawing, values: Values, streams: Streams) -> Process:
        """The process that was frozen."""
        process = cls(values["exec_id"], streams, values["spec"].encode("latin-1"))
        process.pid, process.start, process.status = values["pid"], values["start"], values["status"]
        process.pidfd, process.console = ice.take(values["pidfd"]), ice.take(values["console"])
        process.exit_status, process.exited_ns = values["exit"]
        process.waiters = [WaitAnswer(Call.thaw(ice, call)) for call in values["waits"]]
        return process

    def record(self) -> dict[str, Any]:
        """For ``state.json``."""
        stdin, stdout, stderr = self.streams.io
        return {
            "pid": self.pid,
            "start": self.start,
            "status": self.status,
            "exit_status": self.exit_status,
            "exited_ns": self.exited_ns,
            "stdin": stdin,
            "stdout": stdout,
            "stderr": stderr,
            "terminal": self.streams.terminal,
        }

    def state(self) -> dict[str, Any]:
        """The fields of a StateResponse that it knows."""
        stdin, stdout, stderr = self.streams.io
        return {
            "exec_id": self.exec_id,
            "pid": self.pid,
            "status": self.status,
            "stdin": stdin,
            "stdout": stdout,
            "stderr": stderr,
            "terminal": self.streams.terminal,
            **self.exit(),
        }

    def exit(self) -> dict[str, Any]:
        """How it ended, as the fields of a WaitResponse."""
        return {"exit_status": self.exit_status, "exited_at": timestamp(self.exited_ns)}
