"""Where the output of a process can go: a client's fifo, a file, a log with an optional live copy, nowhere.

A sink takes what it is given and says whether it wants more; what a slow reader has not taken yet is at most one chunk,
so that the pipe fills and the writer waits, as it would without us. Reading from the process is the job of ``pump``.
"""

# ruff: noqa: D102 (the methods are documented once, in ``Sink``)

from __future__ import annotations

import errno
import os
import stat

from portside.errors import InvalidArgument
from portside.shim.frozen import NotQuiet
from portside.shim.logfile import LineWriter, LogFile
from portside.shim.loop import close_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from portside.shim.frozen import Freezing, Thawing, Values

PATIENCE: Final = 5.0
"""Seconds that a live copy's reader may stop reading before the workload stops waiting for it."""


class Sink:
    """Output goes here. This one forgets everything, which is also what a closed sink does."""

    __slots__ = ()
    spliceable = False
    """Whether ``fd`` is a pipe that ``splice`` may fill instead of calls to ``write``."""
    complete_on_exit = False
    """Whether readers expect it to hold everything at the moment the exit of the process is told."""

    @property
    def fd(self) -> int:
        """What becomes writable when ``write`` or ``flush`` said no; -1 if they never do."""
        return -1

    def write(self, data: bytes) -> bool:
        """Take all of ``data``; False asks to wait until ``fd`` is writable and to call ``flush`` then."""
        return True

    def flush(self) -> bool:
        """Write what is pending; whether all of it is."""
        return True

    def give_up(self) -> bool:
        """``PATIENCE`` has passed without progress: whether what is pending was dropped to go on."""
        return False

    def close(self) -> None:
        """No more will come."""

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``; the kinds are in ``thaw_sink``."""
        return {"kind": "none"}


class FifoSink(Sink):
    """A fifo that a client made. We hold it open for reading too, so that a reader may go and another may come.

    What a vanished reader leaves unread stays in the fifo (64 KiB) and then the workload waits: that is containerd's
    contract with clients that detach and attach again. They see the end of the stream when we close.
    """

    __slots__ = ("_fd", "_pending")
    spliceable = True

    def __init__(self, path: str, fd: int = -1) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if path else fd
        self._pending = b""

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, data: bytes) -> bool:
        self._pending += data
        return self.flush()

    def flush(self) -> bool:
        while self._pending:
            try:
                done = os.write(self._fd, self._pending)
            except BlockingIOError:
                return False
            self._pending = self._pending[done:]
        return True

    def freeze(self, ice: Freezing) -> Values:
        return {"kind": "fifo", "fd": ice.put(self._fd)}

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        close_fd(fd)


class FileSink(Sink):
    """A file that output is appended to."""

    __slots__ = ("_fd", "lost")
    complete_on_exit = True

    def __init__(self, path: str, create: bool, fd: int = -1) -> None:
        if create:
            os.makedirs(os.path.dirname(path), 0o711, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | (os.O_CREAT if create else 0)
        self._fd = os.open(path, flags, 0o640) if path else fd
        self.lost = 0
        """Bytes that could not be written (a full disk)."""

    def write(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self.lost += len(view)
        return True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        close_fd(fd)

    def freeze(self, ice: Freezing) -> Values:
        return {"kind": "file", "fd": ice.put(self._fd)}


class LiveCopy(Sink):
    """What is written now, for whoever reads a fifo now; without a reader it is dropped and counted.

    A reader that is there slows the workload down rather than losing anything, but one that has not taken a byte for
    ``PATIENCE`` seconds counts as none until it reads again.
    """

    __slots__ = ("_fd", "_path", "_pending", "_stalled", "dropped")

    def __init__(self, path: str, fd: int = -1) -> None:
        self._path = path
        self._fd = fd
        self._pending = b""
        self._stalled = False
        self.dropped = 0
        """Bytes that nobody was there to read."""
        if fd < 0:
            self._open()  # A reader that is there sees the end, even of a stream without a byte.

    @property
    def pending(self) -> bool:
        """Whether a reader has not taken everything yet."""
        return bool(self._pending)

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, data: bytes) -> bool:
        if self._fd < 0 and not self._open():
            self.dropped += len(data)
            return True
        if self._stalled and self._pending:
            self.flush()
            if self._pending:
                self.dropped += len(data)
                return True
        self._pending += data
        return self.flush() or self._stalled

    def flush(self) -> bool:
        while self._pending:
            try:
                done = os.write(self._fd, self._pending)
            except BlockingIOError:
                return False
            except OSError:  # EPIPE: the reader has gone.
                self.close()
                return True
            self._pending = self._pending[done:]
            self._stalled = False
        return True

    def give_up(self) -> bool:
        self._stalled = True
        return True

    def close(self) -> None:
        self.dropped += len(self._pending)
        self._pending, self._stalled = b"", False
        fd, self._fd = self._fd, -1
        close_fd(fd)

    def _open(self) -> bool:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # ENXIO: nobody reads; ENOENT: nobody ever did.
            return False
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            return False
        self._fd = fd
        return True


class LogSink(Sink):
    """A stream on its way into a log file, and past it to a live copy."""

    __slots__ = ("_lines", "_live", "_log", "_name", "_path")
    complete_on_exit = True

    def __init__(self, log: LogFile, stream: str, live: str, rest: bytes = b"", live_fd: int = -1) -> None:
        self._log = log
        self._name, self._path = stream, live
        self._lines = LineWriter(log, stream, rest)
        self._live = LiveCopy(live, live_fd) if live else Sink()

    @property
    def fd(self) -> int:
        return self._live.fd

    def write(self, data: bytes) -> bool:
        self._lines.feed(data)
        return self._live.write(data)

    def flush(self) -> bool:
        return self._live.flush()

    def give_up(self) -> bool:
        return self._live.give_up()

    def close(self) -> None:
        self._lines.finish()
        self._live.flush()
        self._live.close()

    def freeze(self, ice: Freezing) -> Values:
        live = self._live
        if isinstance(live, LiveCopy) and live.pending:
            raise NotQuiet
        return {
            "kind": "log",
            "name": self._name,
            "live": self._path,
            "rest": self._lines.rest.decode("latin-1"),
            "fd": ice.put(live.fd),
        }


class DescriptorSink(Sink):
    """An end of a pipe or a terminal that the process reads; ``close`` closes it if it is ours."""

    __slots__ = ("_fd", "_owned", "_pending")

    def __init__(self, fd: int, owned: bool) -> None:
        self._fd = fd
        self._owned = owned
        self._pending = b""

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, data: bytes) -> bool:
        self._pending += data
        return self.flush()

    def flush(self) -> bool:
        while self._pending:
            try:
                done = os.write(self._fd, self._pending)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                self._pending = b""  # The process has closed its end.
                return True
            self._pending = self._pending[done:]
        return True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if self._owned:
            close_fd(fd)

    def freeze(self, ice: Freezing) -> Values:
        return {"kind": "descriptor", "fd": ice.put(self._fd), "owned": self._owned}


def thaw_sink(ice: Thawing, values: Values, log: LogFile | None) -> Sink:
    """The sink that was frozen; ``log`` is the one of its streams."""
    kind = values["kind"]
    if kind == "log":
        assert log is not None
        return LogSink(log, values["name"], values["live"], values["rest"].encode("latin-1"), ice.take(values["fd"]))
    if kind == "fifo":
        return FifoSink("", ice.take(values["fd"]))
    if kind == "file":
        return FileSink("", False, ice.take(values["fd"]))
    if kind == "descriptor":
        return DescriptorSink(ice.take(values["fd"]), values["owned"])
    return Sink()


def split_uri(uri: str) -> tuple[str, str, dict[str, str]]:
    """Scheme (``fifo`` for a plain path), path and query of a stream's URI; InvalidArgument if there is no path."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return "fifo", uri, {}
    path, _, query = rest.partition("?")
    path = unquote(path)
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"stream {uri!r}: the path is not absolute")
    options = {}
    for item in query.split("&"):
        if item:
            key, _, value = item.partition("=")
            options[unquote(key)] = unquote(value)
    return scheme, path, options


def unquote(text: str) -> str:
    """Undo percent-encoding (RFC 3986, section 2.1)."""
    if "%" not in text:
        return text
    first, *others = text.encode().split(b"%")
    out = bytearray(first)
    for part in others:
        try:
            out.append(int(part[:2].decode("ascii"), 16))
            out += part[2:]
        except ValueError:
            out += b"%" + part
    return out.decode("utf-8", "surrogateescape")
