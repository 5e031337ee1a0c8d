"""The caller's terminal and pipes on one side, a container's process on the other.

The process's streams are fifos in a private directory that we make; its shim opens the other ends. One epoll loop
moves bytes both ways, forwards signals and window sizes, and listens to the daemon's stream of events for the exit.
Standard library only, and little of it: this is on the path of every ``run`` and ``exec``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

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
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Fifos:
    """A private directory with the fifos of one process; removed when closed."""

    def __init__(self, base: str, *, stdin: bool, terminal: bool) -> None:
        os.makedirs(base, mode=0o700, exist_ok=True)
        self.directory = os.path.join(base, f"{os.getpid()}-{os.urandom(6).hex()}")
        os.mkdir(self.directory, 0o700)
        self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        _remove_left(base)
        self.stdin = self._make("stdin") if stdin else ""
        self.stdout = self._make("stdout")
        self.stderr = "" if terminal else self._make("stderr")
        self.readers = {os.open(self.stdout, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC): 1}
        if self.stderr:
            self.readers[os.open(self.stderr, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)] = 2

    def _make(self, name: str) -> str:
        path = os.path.join(self.directory, name)
        os.mkfifo(path, 0o600)
        return path

    def close(self) -> None:
        """Close what is open and remove the directory."""
        for fd in self.readers:
            os.close(fd)
        self.readers = {}
        _remove(self.directory)
        os.close(self._lock)


def _remove_left(base: str) -> None:
    """Remove what killed commands have left: their number is gone and nobody holds the lock on the directory."""
    for name in os.listdir(base):
        if os.path.exists(f"/proc/{name.partition('-')[0]}"):
            continue
        try:
            fd = os.open(os.path.join(base, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # The numbers of another pid namespace mean nothing here, so the lock has the last word.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(os.path.join(base, name))
        except OSError:
            pass
        finally:
            os.close(fd)


def _remove(directory: str) -> None:
    for name in ("stdin", "stdout", "stderr"):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            pass
    os.rmdir(directory)


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
        fifos: Fifos,
        events: Events,
        *,
        on_event: Callable[[Mapping[str, Any]], None],
        on_signal: Callable[[int], None],
        on_resize: Callable[[], None] | None,
        on_stdin_end: Callable[[], None],
    ) -> None:
        self._fifos, self._events = fifos, events
        self._on_event, self._on_signal, self._on_resize = on_event, on_signal, on_resize
        self._on_stdin_end = on_stdin_end
        self._epoll = select.epoll()
        self._stdin = -1
        self._pending = b""
        self._status: int | None = None
        self._ended = False

    def run(self) -> int | None:
        """The exit status; None if the daemon's stream ended without one."""
        self._epoll.register(self._events.fileno(), select.EPOLLIN)
        for fd in self._fifos.readers:
            self._epoll.register(fd, select.EPOLLIN)
        wake, restore = self._catch_signals()
        self._epoll.register(wake, select.EPOLLIN)
        try:
            self._receive()
            while not self._ended or self._fifos.readers:
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
        return self._status

    def _handle(self, fd: int, mask: int, wake: int) -> None:
        if fd == wake:
            for number in os.read(wake, 64):
                if number == signal.SIGWINCH:
                    if self._on_resize:
                        self._on_resize()
                elif number in FORWARDED:
                    self._on_signal(number)
        elif fd in self._fifos.readers:
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
            if event.get("started") is not None and self._fifos.stdin:
                self._open_input()
            self._on_event(event)

    def _output(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._forget(fd)
            self._fifos.readers.pop(fd)
            os.close(fd)
            return
        target = self._fifos.readers[fd]
        while data:
            try:
                data = data[os.write(target, data) :]
            except BlockingIOError:
                select.select([], [target], [])
            except BrokenPipeError:
                return

    def _open_input(self) -> None:
        try:
            self._stdin = os.open(self._fifos.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        caught = (*FORWARDED, signal.SIGWINCH)
        before = {number: signal.signal(number, lambda *_: None) for number in caught}

        def restore() -> None:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(write)

        return wake, restore
