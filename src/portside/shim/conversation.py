"""One process on its way to its program: what it says, heard by the loop, and what it asks for, done in a child.

The first process of a container on its way to START and from there to its execve, and those of exec. What is said and
answered is the runtime's (``runtime/making.py``); hooks and the agents of seccomp filters, who may take their time, are
dealt with in children (``maker.py``). What a beginning means for the task does not belong here (``task.py``).
"""

from __future__ import annotations

import os

from portside.errors import DeadlineExceeded, PortsideError, from_oserror
from portside.runtime.making import DONE, HOOKS, LISTENER, Creation, Execution, Start
from portside.shim.loop import READ
from portside.shim.maker import TIMEOUT, no_undo, nothing_made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.shim.shared import Outcome, Shim

    Done = Callable[[PortsideError | None], None]


class Conversation:
    """``done`` is called once, when it is over: with None, or with why the process could not be made.

    What was made for one that could not is gone by then.
    """

    __slots__ = ("_done", "_exit", "_fd", "_hand_over", "_making", "_shim", "_timer")

    def __init__(
        self, shim: Shim, making: Creation | Execution | Start, hand_over: Callable[[int], None], done: Done
    ) -> None:
        """``hand_over`` gives a seccomp listener to its agent; it is called in a child. We do not keep it open."""
        self._shim = shim
        self._making = making
        self._hand_over = hand_over
        self._done: Done | None = done
        self._exit: tuple[int, int] | None = None
        # Of our own, so that it can be forgotten before it is closed whoever closes the other.
        self._fd = os.dup(making.fileno())
        # A start takes as long as startContainer hooks take.
        self._timer = None if isinstance(making, Start) else shim.loop.later(TIMEOUT, self._too_long)
        shim.conversations.add(self)
        self._listen()

    def poll(self) -> None:
        """Hear what the process has said; called for its descriptor, and before its end is told."""
        if self._done is None or self._fd not in self._shim.loop:
            return  # It is over, or waits for a child.
        try:
            said = self._making.poll(wait=False)
            if said == DONE:
                self._finish(None)
            elif said == LISTENER and not isinstance(self._making, Creation):
                self._help_with_listener(self._making.take_listener())
            elif said == HOOKS and isinstance(self._making, Creation):
                self._help(self._making.run_hooks)
        except PortsideError as error:
            self._give_up(error)

    def ended(self, pid: int, wait_status: int, now_ns: int) -> None:
        """A child has been reaped that nobody knows yet: if it is ours, its end is told after its start."""
        if not isinstance(self._making, Start) and self._making.pid == pid:
            self._exit = (wait_status, now_ns)

    def abandon(self) -> None:
        """Take back what was made so far; nobody is told."""
        self._done = None
        self._making.abandon()

    def _listen(self) -> None:
        self._shim.loop.watch(self._fd, READ, lambda _: self.poll())

    def _help_with_listener(self, listener: int) -> None:
        try:
            self._help(lambda: self._hand_over(listener))
        finally:
            os.close(listener)

    def _help(self, work: Callable[[], None]) -> None:
        """Have ``work`` done in a child; what the process says meanwhile waits."""

        def helped(outcome: Outcome) -> None:
            if self._done is None:
                return
            if isinstance(outcome, PortsideError):
                self._give_up(outcome)
                return
            if isinstance(self._making, Creation):
                self._making.hooks_done()
            self._listen()
            self.poll()

        self._shim.loop.forget(self._fd)
        try:
            self._shim.make(lambda: nothing_made(work), no_undo, helped)
        except OSError as error:
            self._give_up(from_oserror(error, "fork"))

    def _too_long(self) -> None:
        self._give_up(DeadlineExceeded(f"the process was not made within {TIMEOUT:g} s"))

    def _give_up(self, error: PortsideError) -> None:
        self._making.abandon()
        self._finish(error)

    def _finish(self, error: PortsideError | None) -> None:
        done, self._done = self._done, None
        self._shim.conversations.discard(self)
        self._shim.loop.forget(self._fd)
        os.close(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(self._making, Start):
            self._making.abandon()
        if done is not None:
            done(error)
        if error is None and self._exit is not None and not isinstance(self._making, Start):
            self._shim.ended(self._making.pid, *self._exit)
