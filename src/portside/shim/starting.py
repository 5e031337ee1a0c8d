"""From the call to start a container's first process to its execve: what it says on the way, and that it is over.

What does not belong here: hooks after the start, and what a start means for the task (``task.py``).
"""

from __future__ import annotations

import os

from portside.errors import PortsideError, from_oserror
from portside.shim import signals
from portside.shim.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.shim.held import HeldContainer
    from portside.shim.shared import Outcome, Shim


class Starting:
    """One start. ``done`` is called once: when init has become its program or has died, or with why it could not."""

    __slots__ = ("_container", "_done", "_fd", "_shim", "_whole")

    def __init__(
        self, shim: Shim, container: HeldContainer, whole: Callable[[], HeldContainer], done: Callable[[Outcome], None]
    ) -> None:
        """``whole`` gives the container with everything that its spec says; it is called in a child."""
        self._shim = shim
        self._container = container
        self._whole = whole
        self._done = done
        self._fd = container.begin_start()
        self._listen()

    def poll(self) -> None:
        """Look what init has said; called for its descriptor, and before its end is told."""
        if self not in self._shim.starting:
            return
        try:
            if not self._container.finish_start(self._stop_listening, self._hand_over):
                return
        except PortsideError as error:
            self._done(error)
            return
        self._done(({}, []))

    def _listen(self) -> None:
        self._shim.starting.add(self)
        self._shim.loop.watch(self._fd, READ, lambda _: self.poll())

    def _stop_listening(self) -> None:
        self._shim.starting.discard(self)
        self._shim.loop.forget(self._fd)

    def _hand_over(self, listener: int) -> None:
        """Give init's seccomp listener to the agent, in a child; what init says meanwhile waits."""

        def work() -> tuple[dict[str, object], list[int]]:
            self._whole().hand_listener_over(listener)
            return {}, []

        self._stop_listening()
        try:
            self._shim.make(work, _nothing, self._handed_over)
        except OSError as error:
            self._container.kill(signals.SIGKILL)  # Nobody would answer it.
            self._handed_over(from_oserror(error, f"start container {self._container.id}"))
        finally:
            os.close(listener)

    def _handed_over(self, outcome: Outcome) -> None:
        if isinstance(outcome, PortsideError):
            self._container.end_start()
            self._done(outcome)
        else:
            self._listen()
            self.poll()


def _nothing() -> None:
    """There is nothing to undo."""
