"""The streams of one process: what its descriptors 0, 1 and 2 are, and who copies what until they end.

    client's request          what the process gets            what the shim does
    ------------------------  -------------------------------  ------------------------------------------------
    empty                     /dev/null                        nothing
    fifo (a plain path)       the fifo itself (``direct``)     keeps it open until the process has ended
    fifo                      a pipe                           splices the pipe to the fifo
    file:///path              a pipe                           appends to the file
    log:///path?…             a pipe                           writes lines, rotates, copies to who reads now
    terminal                  a pseudo-terminal's slave        copies its master both ways

Options of ``log``: ``max-size`` (``10m``; one older file is kept), ``attach-stdout`` and ``attach-stderr`` (fifos for
a live copy). Standard input is a fifo that the client made; the shim keeps a writing end open, so that a client may
go and another may come, until CloseIO. What the process reads or writes itself costs us nothing and needs no
draining, but its readers see the end only when all processes that inherited it are gone: therefore ``direct`` is for
a container's first process, whose end is the end of all, and whose user may open the fifo again as ``/dev/stdout``.
"""

from __future__ import annotations

import os
import stat

from portside.errors import InvalidArgument, Unimplemented, from_oserror
from portside.shim.logfile import LogFile, parse_size
from portside.shim.loop import close_fd
from portside.shim.pump import Pump
from portside.shim.sinks import DescriptorSink, FifoSink, FileSink, LogSink, Sink, split_uri

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from portside.shim.loop import Loop

FINISH_TIMEOUT: Final = 2.0
"""Seconds that Delete waits for the streams of an ended process, which a child of it may hold open for ever."""
SETTLE_TIMEOUT: Final = 0.1
"""Seconds that the exit of a process waits for the rest of its terminal's output to be in the log."""


class Streams:
    """Made before the process (``prepare``), given its console (``started``), told of its end (``exited``)."""

    __slots__ = (
        "_child_fds",
        "_keepers",
        "_log",
        "_loop",
        "_outputs",
        "_pumps",
        "_stdin",
        "_waiting",
        "io",
        "terminal",
    )

    def __init__(self, loop: Loop, io: tuple[str, str, str], terminal: bool) -> None:
        self._loop = loop
        self.io = io
        """Standard input, output and error as the client asked for them."""
        self.terminal = terminal
        self._child_fds: list[int] = []
        self._keepers: list[int] = []
        self._stdin = -1
        self._log: LogFile | None = None
        self._outputs: list[tuple[int, Sink]] = []  # what to pump once the process is there
        self._pumps: list[Pump] = []
        self._waiting: Callable[[], None] | None = None

    def prepare(self, *, direct: bool = False, owner: tuple[int, int] = (0, 0)) -> tuple[int, int, int]:
        """Open everything; the descriptors for the process, -1 for /dev/null (a terminal: all -1), still ours.

        NotFound and the like if a stream cannot be opened; then nothing stays open.
        """
        try:
            if self.terminal:
                if self.io[1]:
                    self._outputs.append((-1, self._sink(self.io[1], "stdout")))
                return -1, -1, -1
            stdin = self._prepare_input(direct, owner)
            stdout = self._prepare_output(self.io[1], "stdout", direct, owner)
            stderr = self._prepare_output(self.io[2], "stderr", direct, owner)
            return stdin, stdout, stderr
        except OSError as error:
            self.close()
            raise from_oserror(error, f"open stream {error.filename or ''}") from error
        except BaseException:
            self.close()
            raise

    def started(self, console: int = -1) -> None:
        """The process holds its ends: close ours and begin to copy. ``console`` stays the caller's."""
        for fd in self._child_fds:
            close_fd(fd)
        self._child_fds.clear()
        outputs, self._outputs = self._outputs, []
        if not self.terminal:
            for source, sink in outputs:
                self._pump(source, sink)
        elif console >= 0:
            # A copy for each direction: the loop keeps one callback for a descriptor.
            self._pump(os.dup(console), outputs[0][1] if outputs else Sink())
            if self.io[0]:
                self._pump_input(DescriptorSink(os.dup(console), owned=True))

    def close_stdin(self) -> None:
        """Let standard input end once its other writers are gone (CloseIO)."""
        fd, self._stdin = self._stdin, -1
        close_fd(fd)

    def exited(self, report: Callable[[], None]) -> None:
        """The process has ended: move what it wrote, then ``report``, at once unless a terminal's rest is to come."""
        for pump in list(self._pumps):
            pump.drain()
        keepers, self._keepers = self._keepers, []
        for fd in keepers:
            close_fd(fd)
        self.close_stdin()
        if self.terminal and any(pump.sink.complete_on_exit for pump in self._pumps):
            self._when_finished(report, SETTLE_TIMEOUT)
        else:
            report()

    def finish(self, done: Callable[[], None]) -> None:
        """Wait until readers have all output, at most ``FINISH_TIMEOUT``; then let go of it and call ``done``."""

        def finished() -> None:
            self.abandon()
            done()

        self._when_finished(finished, FINISH_TIMEOUT)

    def abandon(self) -> None:
        """Let readers see the end now; a child that still writes is read into nothing."""
        for pump in list(self._pumps):
            if self._reads_process(pump):
                pump.abandon()
            else:
                pump.close()
        if self._log is not None:
            self._log.close()

    def close(self) -> None:
        """Give everything back, finished or not. A process that still writes gets SIGPIPE."""
        for fd in (*self._child_fds, *self._keepers):
            close_fd(fd)
        self._child_fds.clear()
        self._keepers.clear()
        self.close_stdin()
        for source, sink in self._outputs:
            close_fd(source)
            sink.close()
        self._outputs.clear()
        for pump in list(self._pumps):
            pump.close()
        if self._log is not None:
            self._log.close()

    def _reads_process(self, pump: Pump) -> bool:
        return not isinstance(pump.sink, DescriptorSink)

    def _when_finished(self, call: Callable[[], None], timeout: float) -> None:
        if not any(self._reads_process(pump) for pump in self._pumps):
            call()
            return

        def once() -> None:
            if self._waiting is once:
                self._waiting = None
                timer.cancel()
                call()

        self._waiting, previous = once, self._waiting
        timer = self._loop.later(timeout, once)
        if previous is not None:
            previous()

    def _ended(self) -> None:
        self._pumps = [pump for pump in self._pumps if not pump.finished]
        if self._waiting is not None and not any(self._reads_process(pump) for pump in self._pumps):
            self._waiting()

    def _pump(self, source: int, sink: Sink) -> None:
        self._pumps.append(Pump(self._loop, source, sink, self._ended))

    def _prepare_input(self, direct: bool, owner: tuple[int, int]) -> int:
        path = self.io[0]
        if not path:
            return -1
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            return self._child(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY))
        if direct:
            reader = self._child(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._stdin = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(reader, True)
            return reader
        reader, writer = self._pipe(owner)
        os.set_blocking(writer, False)
        self._child(reader)
        self._pump_input(DescriptorSink(writer, owned=True))
        return reader

    def _pump_input(self, sink: Sink) -> None:
        try:
            source = os.open(self.io[0], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            sink.close()
            raise
        self._pump(source, sink)
        self._stdin = os.open(self.io[0], os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def _prepare_output(self, uri: str, stream: str, direct: bool, owner: tuple[int, int]) -> int:
        if not uri:
            return -1
        if direct and "://" not in uri and stat.S_ISFIFO(os.stat(uri).st_mode):
            self._keepers.append(os.open(uri, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            return self._child(os.open(uri, os.O_WRONLY | os.O_CLOEXEC))
        sink = self._sink(uri, stream)
        try:
            reader, writer = self._pipe(owner)
        except OSError:
            sink.close()
            raise
        self._outputs.append((reader, sink))
        return self._child(writer)

    def _child(self, fd: int) -> int:
        self._child_fds.append(fd)
        return fd

    def _pipe(self, owner: tuple[int, int]) -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if owner != (0, 0):
            for fd in (reader, writer):
                os.fchown(fd, *owner)
        return reader, writer

    def _sink(self, uri: str, stream: str) -> Sink:
        scheme, path, options = split_uri(uri)
        if scheme == "fifo":
            return FifoSink(path) if stat.S_ISFIFO(os.stat(path).st_mode) else FileSink(path, create=False)
        if scheme == "file":
            return FileSink(path, create=True)
        if scheme != "log":
            raise Unimplemented(f"stream {uri!r}: scheme {scheme!r} is not served (fifo, file and log are)")
        try:
            size = parse_size(options.get("max-size", "0"))
        except ValueError as error:
            raise InvalidArgument(f"stream {uri!r}: max-size: {error}") from None
        if self._log is None or self._log.path != path:
            if self._log is not None:
                raise InvalidArgument(f"stream {uri!r}: standard output and error go to different logs")
            self._log = LogFile(path, size)
        return LogSink(self._log, stream, options.get(f"attach-{stream}", ""))
