"""The caller's terminal and pipes on one side, a container's process on the other.

The process's streams are fifos in a private directory that we make; its shim opens the other ends. One epoll loop
moves bytes both ways, forwards signals and window sizes, and listens to the daemon's stream of events for the exit.
Standard library only, and little of it: this is on the path of every ``run`` and ``exec``.
"""

from __future__ import annotations

import errno
import os
import select
import sys

from portside.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from portside.client.fifos import Fifos

    class Events(Protocol):
        """The daemon's answers, as they come."""

        def fileno(self) -> int:
            """Readable when there is something to receive."""
            ...

        def receive(self) -> list[Mapping[str, Any]] | None:
            """What has come, without waiting; None at the end."""
            ...


CHUNK = 64 << 10
GRACE = 2.0
"""Seconds that output may still come after the exit was told: the shim drains the pipes by then."""
UNHEARD = 128 + signals.SIGPIPE
"""The status when whoever read our output has gone: a shell's for a program that died of it."""
FORWARDED = (signals.SIGINT, signals.SIGTERM, signals.SIGHUP, signals.SIGQUIT, signals.SIGUSR1, signals.SIGUSR2)


class Outputs:
    """The reading ends of a process's fifos, opened before it is made; closed with ``close``."""

    def __init__(self, fifos: Fifos) -> None:
        self.targets: dict[int, int] = {}
        """Which of our descriptors what is read from one of them goes to."""
        for path, target in ((fifos.stdout, 1), (fifos.stderr, 2)):
            if path:
                self.targets[os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)] = target

    def close(self, fd: int = -1) -> None:
        """Close one of them, or all that are open."""
        for each in (fd,) if fd >= 0 else tuple(self.targets):
            del self.targets[each]
            os.close(each)


class Terminal:
    """Our own terminal in raw mode, put back on close."""

    def __init__(self, fd: int) -> None:
        import termios
        import tty

        self._fd, self._termios = fd, termios
        self._saved = termios.tcgetattr(fd)
        tty.setraw(fd, termios.TCSANOW)

    def close(self) -> None:
        """As it was before."""
        self._termios.tcsetattr(self._fd, self._termios.TCSADRAIN, self._saved)


def window_size() -> tuple[int, int]:
    """Columns and rows of our terminal, 0 and 0 without one."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 0, 0
    return size.columns, size.lines


class Session:
    """One attached process, from its start to its exit."""

    def __init__(
        self,
        stdin: str,
        outputs: Outputs,
        events: Events,
        *,
        on_event: Callable[[Mapping[str, Any]], None],
        on_signal: Callable[[int], None],
        on_resize: Callable[[], None] | None,
        on_stdin_end: Callable[[], None],
        on_unheard: Callable[[], bool],
    ) -> None:
        """``stdin`` is the path of a fifo, or empty. ``on_unheard`` tells whether the process is now going to end."""
        self._stdin_path, self._outputs, self._events = stdin, outputs, events
        self._on_event, self._on_signal, self._on_resize = on_event, on_signal, on_resize
        self._on_stdin_end, self._on_unheard = on_stdin_end, on_unheard
        self._epoll = select.epoll()
        self._stdin = -1
        self._pending = b""
        self._status: int | None = None
        self._started = self._ended = False
        self._unheard = self._told = self._left = False

    def run(self) -> int | None:
        """The exit status; None if the daemon's stream ended without one; ``UNHEARD`` if nobody reads our output."""
        self._epoll.register(self._events.fileno(), select.EPOLLIN)
        for fd in self._outputs.targets:
            self._epoll.register(fd, select.EPOLLIN)
        wake, restore = self._catch_signals()
        self._epoll.register(wake, select.EPOLLIN)
        try:
            self._receive()
            while not self._left and (not self._ended or self._outputs.targets):
                ready = self._epoll.poll(GRACE if self._ended else -1)
                if not ready and self._ended:
                    break
                for fd, mask in ready:
                    self._handle(fd, mask, wake)
        finally:
            restore()
            self._epoll.close()
            if self._stdin >= 0:
                os.close(self._stdin)
        return UNHEARD if self._unheard else self._status

    def _handle(self, fd: int, mask: int, wake: int) -> None:
        if fd == wake:
            for number in os.read(wake, 64):
                if number == signals.SIGWINCH:
                    if self._on_resize:
                        self._on_resize()
                elif number in FORWARDED:
                    self._on_signal(number)
        elif fd in self._outputs.targets:
            self._output(fd)
        elif fd == self._stdin:
            self._flush_input(mask)
        elif fd == 0:
            self._input()
        else:
            self._receive()

    def _receive(self) -> None:
        events = self._events.receive()
        if events is None:
            self._ended = True
            self._forget(self._events.fileno())
            return
        for event in events:
            if exited := event.get("exited"):
                self._status = exited["status"]
            if event.get("started") is not None:
                self._started = True
                if self._stdin_path:
                    self._open_input()
            self._on_event(event)
        self._leave_unheard()

    def _output(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._forget(fd)
            self._outputs.close(fd)
            return
        target = self._outputs.targets[fd]
        while data:
            try:
                data = data[os.write(target, data) :]
            except BlockingIOError:
                select.select([], [target], [])
            except BrokenPipeError:
                self._unheard = True
                self._outputs.close()
                self._leave_unheard()
                return

    def _leave_unheard(self) -> None:
        """Nobody reads what we write: end, at once or with the process, but not before it is known who that is."""
        if self._unheard and self._started and self._status is None and not self._told:
            self._told = True
            self._left = not self._on_unheard()

    def _open_input(self) -> None:
        try:
            self._stdin = os.open(self._stdin_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        try:
            self._epoll.register(0, select.EPOLLIN)
        except PermissionError:
            # A regular file cannot be polled: it is always ready, so it is read as the fifo drains.
            self._input()

    def _input(self) -> None:
        data = os.read(0, CHUNK)
        if data:
            self._pending += data
            self._forget(0)
            self._epoll.register(self._stdin, select.EPOLLOUT)
        else:
            self._forget(0)
            os.close(self._stdin)
            self._stdin = -1
            self._on_stdin_end()

    def _flush_input(self, mask: int) -> None:
        try:
            self._pending = self._pending[os.write(self._stdin, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._pending = b""
            self._forget(self._stdin)
            return
        if not self._pending:
            self._forget(self._stdin)
            try:
                self._epoll.register(0, select.EPOLLIN)
            except PermissionError:
                self._input()

    def _forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (FileNotFoundError, PermissionError, ValueError):
            pass  # not there, or (EPERM) a regular file, which never was

    def _catch_signals(self) -> tuple[int, Callable[[], None]]:
        """Signals arrive as bytes on a pipe; the caller restores what was."""
        wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signals.set_wakeup_fd(write)
        caught = (*FORWARDED, signals.SIGWINCH)
        before = {number: signals.handle(number, lambda *_: None) for number in caught}

        def restore() -> None:
            signals.set_wakeup_fd(-1)
            for number, handler in before.items():
                signals.handle(number, handler)
            os.close(wake)
            os.close(write)

        return wake, restore
