"""What the tasks of one shim share, and its reaper. What a task is stands in ``task.py``."""

from __future__ import annotations

import os
import time

from portside.shim.maker import Maker
from portside.shim.recipe import Recipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.errors import PortsideError
    from portside.shim.conversation import Conversation
    from portside.shim.loop import Loop
    from portside.shim.maker import Made
    from portside.shim.outbox import Outbox
    from portside.shim.process import Process
    from portside.shim.task import Task

    Outcome = Made | PortsideError


class Shim:
    """What the tasks of a shim share: namespace, loop, outbox, and who has which pid. Set up once, in ``main.py``."""

    __slots__ = (
        "by_pid",
        "cache_dir",
        "conversations",
        "loop",
        "makers",
        "namespace",
        "outbox",
        "pid",
        "recipe",
    )

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
        self.recipe = Recipe
        """By which containers are made."""
        self.conversations: set[Conversation] = set()
        """With each process that is on its way to its program."""

    def make(self, work: Callable[[], Made], undo: Callable[[], None], done: Callable[[Outcome], None]) -> None:
        """Run ``work`` in a child; then call ``done`` with what it made, or with what went wrong. OSError."""
        Maker(self.loop, self.makers, work, undo, done)

    def ended(self, pid: int, wait_status: int, now_ns: int) -> None:
        """A child has been reaped, by us or by the keeper."""
        known = self.by_pid.pop(pid, None)
        if known is not None:
            known[0].process_ended(known[1], wait_status, now_ns)
            return
        for conversation in self.conversations:
            conversation.ended(pid, wait_status, now_ns)

    def reap(self) -> None:
        """Collect every child that has ended; orphans of a container too, of which nobody asks."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            # What has been said comes first: a process is started before it exits, and what has been made was announced
            # before it came to us. While it is not reaped, its number is its own.
            for conversation in list(self.conversations):
                conversation.poll()
            pid = found.si_pid
            if pid not in self.by_pid:
                for maker in list(self.makers):
                    maker.poll()
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:
                continue  # A conversation that failed has reaped it.
            self.ended(pid, status, time.time_ns())
