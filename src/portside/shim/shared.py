"""What the tasks of one shim share, and its reaper. What a task is stands in ``task.py``."""

from __future__ import annotations

import os
import time

from portside.shim.maker import Maker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.errors import PortsideError
    from portside.shim.loop import Loop
    from portside.shim.maker import Made
    from portside.shim.outbox import Outbox
    from portside.shim.process import Process
    from portside.shim.starting import Starting
    from portside.shim.task import Task

    Outcome = Made | PortsideError
    Make = Callable[[Callable[[], Made], Callable[[], None], Callable[[Outcome], None]], None]


class Shim:
    """What the tasks of a shim share: namespace, loop, outbox, and who has which pid. Set up once, in ``main.py``."""

    __slots__ = ("by_pid", "cache_dir", "loop", "make", "makers", "namespace", "outbox", "pid", "starting")

    def __init__(self, loop: Loop, outbox: Outbox, namespace: str, cache_dir: str) -> None:
        self.loop = loop
        self.outbox = outbox
        self.namespace = namespace
        self.pid = os.getpid()
        """By which the world knows the shim: its keeper's, if it has one."""
        self.cache_dir = cache_dir
        """Where compiled seccomp filters are kept; empty for nowhere."""
        self.by_pid: dict[int, tuple[Task, Process]] = {}
        self.makers: set[Maker] = set()
        """Children at work."""
        self.make: Make = self._make
        """Run work in a child; then call with what it made, or with what went wrong."""
        self.starting: set[Starting] = set()
        """Of each task whose init is between start and execve."""

    def _make(self, work: Callable[[], Made], undo: Callable[[], None], done: Callable[[Outcome], None]) -> None:
        Maker(self.loop, self.makers, work, undo, done)

    def ended(self, pid: int, wait_status: int, now_ns: int) -> None:
        """A child has been reaped, by us or by the keeper."""
        known = self.by_pid.pop(pid, None)
        if known is not None:
            known[0].process_ended(known[1], wait_status, now_ns)

    def reap(self) -> None:
        """Collect every child that has ended; orphans of a container too, of which nobody asks."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            # Started comes before exit, and what has been made was announced before it came to us.
            for starting in list(self.starting):
                starting.poll()
            if pid not in self.by_pid:
                for maker in list(self.makers):
                    maker.poll()
            self.ended(pid, status, time.time_ns())
