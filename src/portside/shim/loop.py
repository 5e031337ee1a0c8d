"""The loop of a shim: descriptors by epoll, timers, signals. What the callbacks do does not belong here.

A shim has one thread, so a callback must not block for long; what has to wait registers interest and returns. A
callback that raises is a defect: it is told to ``on_error`` and the loop goes on, since a shim that ends takes the
container's streams with it.
"""

from __future__ import annotations

import _socket
import os
import select
import time

from portside.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

MAX_EVENTS = 64


class Timer:
    """A call at a later time; ``cancel`` makes it not happen."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget it; harmless if it has happened."""
        self.call = None


class Loop:
    """Calls back when descriptors are ready, times have come or signals have arrived. Owns none of the descriptors."""

    __slots__ = (
        "_epoll",
        "_handlers",
        "_soon",
        "_stopped",
        "_timers",
        "_wake_reader",
        "_wake_writer",
        "activity",
        "on_error",
    )

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []
        self._stopped = False
        self._wake_reader: _socket.socket | None = None
        self._wake_writer: _socket.socket | None = None
        self.on_error = on_error
        self.activity = 0
        """Grows with everything that happens, but for timers."""

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call ``call(ready)`` while ``fd`` is ready for ``events``; a second call for the same ``fd`` replaces them.

        With ``events`` 0 the descriptor is remembered and only a hangup or an error is told.
        """
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = call

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; to be called before it is closed. Harmless if it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # Closed already; epoll has forgotten it by itself.

    def __contains__(self, fd: int) -> bool:
        """Whether ``fd`` is watched."""
        return fd in self._handlers

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` once, ``seconds`` from now."""
        timer = Timer(time.monotonic() + seconds, call)
        self._timers.append(timer)
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Call ``call`` once, after the callbacks of this round: what must not delay an answer goes here."""
        self._soon.append(call)

    def on_signals(self, numbers: tuple[int, ...], call: Callable[[int], None]) -> None:
        """Call ``call(number)`` in the loop for each of these signals (several of one kind may come as one)."""
        reader, writer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        reader.setblocking(False)
        writer.setblocking(False)
        self._wake_reader, self._wake_writer = reader, writer
        for number in numbers:
            signals.handle(number, _nothing)
        # The interpreter's handler writes the number in the moment of the signal, so none is lost between two polls.
        signals.set_wakeup_fd(writer.fileno())

        def arrived(_ready: int) -> None:
            for number in set(reader.recv(4096)):
                call(number)

        self.watch(reader.fileno(), READ, arrived)

    def stop(self) -> None:
        """Let ``run`` return after this round."""
        self._stopped = True

    def run(self) -> None:
        """Until ``stop``."""
        while not self._stopped:
            self.turn()

    def turn(self) -> None:
        """One round: wait until something is due, and do what is."""
        for fd, ready in self._epoll.poll(self._timeout(), MAX_EVENTS):
            self.activity += 1
            call = self._handlers.get(fd)
            if call is not None:
                self._guarded(call, ready)
        if self._timers:
            self._run_timers()
        while self._soon:
            todo, self._soon = self._soon, []
            for later in todo:
                self._guarded(later)

    def close(self) -> None:
        """Give back epoll and the signals."""
        if self._wake_writer is not None and self._wake_reader is not None:
            signals.set_wakeup_fd(-1)
            self._wake_reader.close()
            self._wake_writer.close()
        self._epoll.close()

    def _timeout(self) -> float:
        if self._soon:
            return 0.0
        if not self._timers:
            return -1.0
        return max(0.0, min(timer.when for timer in self._timers) - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer.when <= now or timer.call is None]
        if due:
            self._timers = [timer for timer in self._timers if timer.when > now and timer.call is not None]
        for timer in sorted(due, key=lambda timer: timer.when):
            if timer.call is not None:
                self._guarded(timer.call)

    def _guarded(self, call: Callable[..., None], *arguments: int) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self.on_error(error)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A signal needs a handler of Python's to reach the wakeup descriptor."""


def close_fd(fd: int) -> None:
    """Close ``fd`` unless it is -1; an error has nobody to be told to (the descriptor is gone either way)."""
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass
