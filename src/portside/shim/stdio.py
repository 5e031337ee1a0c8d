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
go and another may come, until CloseIO. It is opened when the process starts and always copied into a pipe: containerd's
clients read their input as soon as the fifo has a reader, and one whose input ends before it has Create's answer never
sends CloseIO. What the process writes itself costs us nothing and needs no
draining, but its readers see the end only when all processes that inherited it are gone: therefore ``direct`` is for
a container's first process, whose end is the end of all, and whose user may open the fifo again as ``/dev/stdout``.
"""

from __future__ import annotations

import os
import stat

from portside.errors import InvalidArgument, Unimplemented, from_oserror
from portside.shim.frozen import NotQuiet
from portside.shim.logfile import LogFile, parse_size
from portside.shim.loop import close_fd
from portside.shim.pump import Pump
from portside.shim.sinks import DescriptorSink, FifoSink, FileSink, LogSink, Sink, split_uri, thaw_sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.loop import Loop

FINISH_TIMEOUT: Final = 2.0
"""Seconds that Delete waits for the streams of an ended process, which a child of it may hold open for ever."""
SETTLE_TIMEOUT: Final = 0.1
"""Seconds that the exit of a process waits for the rest of its terminal's output to be in the log."""


class _Stream:
    """One of the three while the process is being made: what the client gave, and a pipe in case it is needed."""

    __slots__ = ("direct", "keys", "ours", "path", "sink", "theirs")

    def __init__(self, path: str = "", sink: Sink | None = None) -> None:
        self.path = path
        self.sink = sink
        """Where output goes; None for input."""
        self.ours = self.theirs = -1
        """The pipe: the end that we copy from or to, and the process's."""
        self.direct = -1
        """The client's fifo for the process itself, instead of the pipe."""
        self.keys = -1
        """The reading end of a terminal's fifo for input."""

    @property
    def may_be_direct(self) -> bool:
        """Whether the process can have the client's fifo itself."""
        return isinstance(self.sink, FifoSink)

    def close(self) -> None:
        for fd in (self.ours, self.theirs, self.direct, self.keys):
            close_fd(fd)
        self.ours = self.theirs = self.direct = self.keys = -1
        if self.sink is not None:
            self.sink.close()


class Streams:
    """``prepare`` before the process is made, ``child_fds`` where it is, ``started`` when it is, then ``exited``."""

    __slots__ = ("_input", "_keepers", "_log", "_loop", "_pumps", "_stdin", "_streams", "_waiting", "io", "terminal")

    def __init__(self, loop: Loop, io: tuple[str, str, str], terminal: bool) -> None:
        self._loop = loop
        self.io = io
        """Standard input, output and error as the client asked for them."""
        self.terminal = terminal
        self._streams: list[_Stream | None] = []
        self._keepers: list[Sink] = []
        self._input = -1
        """The pipe into the process, until ``begin_input``."""
        self._stdin = -1
        """A writing end of the client's fifo, until CloseIO."""
        self._log: LogFile | None = None
        self._pumps: list[Pump] = []
        self._waiting: list[Callable[[], None]] = []
        """Who waits for the end of what the process writes, in the order in which they are to hear of it."""

    def prepare(self, owner: tuple[int, int] = (0, 0)) -> None:
        """Open everything; pipes belong to ``owner``. NotFound and the like if that fails: then nothing stays open."""
        try:
            if self.terminal:
                keyboard = _Stream(self.io[0]) if self.io[0] else None
                output = _Stream(sink=self._sink(self.io[1], "stdout")) if self.io[1] else None
                self._streams = [keyboard, output, None]
                if keyboard is not None:
                    self._open_input(keyboard)
            else:
                self._prepare_input(owner)
                for path, name in zip(self.io[1:], ("stdout", "stderr"), strict=True):
                    self._prepare_output(path, name, owner)
        except OSError as error:
            self.close()
            raise from_oserror(error, f"open stream {error.filename or ''}") from error
        except BaseException:
            self.close()
            raise

    def child_fds(self, direct: bool) -> tuple[int, int, int]:
        """The process's descriptors, -1 for /dev/null (all, with a terminal); ours until ``started`` or ``close``."""
        if self.terminal:
            return -1, -1, -1
        stdin, stdout, stderr = (self._child_fd(stream, direct) for stream in self._streams)
        return stdin, stdout, stderr

    def started(self, console: int = -1, direct: bool = False) -> None:
        """The process holds its ends, as ``child_fds(direct)`` had them. ``console`` stays the caller's."""
        streams, self._streams = self._streams, []
        stdin, *outputs = streams
        if self.terminal:
            self._copy_terminal(console, stdin, outputs[0])
            return
        if stdin is not None and stdin.ours >= 0:
            self._input, stdin.ours = stdin.ours, -1
        for stream in outputs:
            if stream is not None and stream.sink is not None:
                if direct and stream.may_be_direct:
                    self._keepers.append(stream.sink)
                else:
                    self._pump(stream.ours, stream.sink)
                    stream.ours = -1
                stream.sink = None
        for stream in streams:
            if stream is not None:
                stream.close()

    def _copy_terminal(self, console: int, keyboard: _Stream | None, output: _Stream | None) -> None:
        """Each direction has a descriptor of its own: the loop keeps one callback for each."""
        self._pump(os.dup(console), output.sink if output is not None and output.sink is not None else Sink())
        if keyboard is not None:
            self._pump(keyboard.keys, DescriptorSink(os.dup(console), owned=True))

    def begin_input(self) -> None:
        """The process starts: copy the client's fifo into its pipe. Errors end its input, as a client's end would."""
        fd, self._input = self._input, -1
        if fd < 0:
            return
        sink = DescriptorSink(fd, owned=True)
        os.set_blocking(fd, False)
        try:
            source = os.open(self.io[0], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            sink.close()
            return
        self._pump(source, sink)
        self._stdin = os.open(self.io[0], os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close_stdin(self) -> None:
        """Let standard input end once its other writers are gone (CloseIO)."""
        for name in ("_stdin", "_input"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            close_fd(fd)

    def exited(self, report: Callable[[], None]) -> None:
        """The process has ended: move what it wrote, then ``report``, at once unless a terminal's rest is to come."""
        for pump in list(self._pumps):
            pump.drain()
        self._close_keepers()
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
        self._close_keepers()
        for stream in self._streams:
            if stream is not None:
                stream.close()
        self._streams.clear()
        for pump in list(self._pumps):
            pump.close()
        if self._log is not None:
            self._log.close()

    def _close_keepers(self) -> None:
        keepers, self._keepers = self._keepers, []
        for sink in keepers:
            sink.close()
        self.close_stdin()

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``; streams whose end is awaited, or that a process is being made with, are not quiet."""
        if self._waiting or self._streams:
            raise NotQuiet
        return {
            "io": self.io,
            "terminal": self.terminal,
            "input": ice.put(self._input),
            "stdin": ice.put(self._stdin),
            "keepers": [sink.freeze(ice) for sink in self._keepers],
            "log": self._log.freeze(ice) if self._log is not None and self._log.is_open else None,
            "pumps": [pump.freeze(ice) for pump in self._pumps],
        }

    @classmethod
    def thaw(cls, loop: Loop, ice: Thawing, values: Values) -> Streams:
        """The streams that were frozen."""
        stdin, stdout, stderr = values["io"]
        streams = cls(loop, (stdin, stdout, stderr), values["terminal"])
        streams._input = ice.take(values["input"])
        streams._stdin = ice.take(values["stdin"])
        streams._log = LogFile.thaw(ice, values["log"]) if values["log"] is not None else None
        streams._keepers = [thaw_sink(ice, sink, None) for sink in values["keepers"]]
        for pump in values["pumps"]:
            streams._pump(ice.take(pump["source"]), thaw_sink(ice, pump["sink"], streams._log))
        return streams

    def _reads_process(self, pump: Pump) -> bool:
        return not isinstance(pump.sink, DescriptorSink)

    def _when_finished(self, call: Callable[[], None], timeout: float) -> None:
        if not any(self._reads_process(pump) for pump in self._pumps):
            call()
            return

        def once() -> None:
            # Who began to wait before is told before.
            while once in self._waiting and self._waiting[0] is not once:
                self._waiting[0]()
            if once in self._waiting:
                self._waiting.remove(once)
                timer.cancel()
                call()

        self._waiting.append(once)
        timer = self._loop.later(timeout, once)

    def _ended(self) -> None:
        self._pumps = [pump for pump in self._pumps if not pump.finished]
        while self._waiting and not any(self._reads_process(pump) for pump in self._pumps):
            self._waiting[0]()

    def _pump(self, source: int, sink: Sink) -> None:
        self._pumps.append(Pump(self._loop, source, sink, self._ended))

    def _prepare_input(self, owner: tuple[int, int]) -> None:
        path = self.io[0]
        stream = _Stream(path) if path else None
        self._streams.append(stream)
        if stream is None:
            return
        if stat.S_ISFIFO(os.stat(path).st_mode):
            stream.theirs, stream.ours = _pipe(owner)
        else:
            stream.theirs = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)

    def _open_input(self, stream: _Stream) -> None:
        """The fifo's reading end, and a writing end of our own, until CloseIO."""
        stream.keys = os.open(stream.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stdin = os.open(stream.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def _prepare_output(self, uri: str, name: str, owner: tuple[int, int]) -> None:
        stream = _Stream(uri, self._sink(uri, name)) if uri else None
        self._streams.append(stream)
        if stream is not None:
            stream.ours, stream.theirs = _pipe(owner)

    @staticmethod
    def _child_fd(stream: _Stream | None, direct: bool) -> int:
        if stream is None:
            return -1
        if not direct or not stream.may_be_direct:
            return stream.theirs
        stream.direct = os.open(stream.path, os.O_WRONLY | os.O_CLOEXEC)  # The sink reads it too: this does not wait.
        return stream.direct

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


def _pipe(owner: tuple[int, int]) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if owner != (0, 0):
        for fd in (reader, writer):
            os.fchown(fd, *owner)
    return reader, writer
