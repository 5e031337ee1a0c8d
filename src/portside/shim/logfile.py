"""A container's log file: lines as Kubernetes' CRI has them, rotated by size.

Each line is ``<RFC 3339 time with nanoseconds> <stream> <tag> <text>``: tag F means that a newline followed the text, P
that none did (the line is longer than 16 KiB, or the stream ended in the middle of one). So the bytes that were written
can be had back from the log exactly: the texts of one stream, with a newline after each F.

Layout on disk: ``path`` and, once it has grown to ``max_size``, the one before it as ``path.1``. Rotation is a rename
and a new file, so a reader who follows by name loses nothing; a crash between the two leaves only ``path.1``. Nothing
is synced: the log is as durable as the page cache, like that of every other engine.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from portside.shim.frozen import Freezing, Thawing, Values

MAX_TEXT: Final = 16 << 10
"""Bytes of text in one line; a longer line of the container becomes several with tag P."""
MIN_SIZE: Final = 32 << 10
"""Smaller limits than this are raised to it, so that every line fits."""


class LogFile:
    """The open log, shared by the streams of one process. Whoever made it calls ``close``."""

    __slots__ = ("_directory_fd", "_fd", "_lost", "_max_size", "_name", "_second", "_second_text", "_size", "path")

    def __init__(self, path: str, max_size: int = 0) -> None:
        """Open for appending, making file and directory (OSError). ``max_size`` in bytes, 0 for no limit."""
        self.path = path
        directory, self._name = os.path.split(path)
        os.makedirs(directory, 0o700, exist_ok=True)
        self._directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fd = -1
        self._size = 0
        self._max_size = max(max_size, MIN_SIZE) if max_size > 0 else 0
        self._second, self._second_text = -1, b""
        self._lost = 0
        try:
            self._open()
        except OSError:
            os.close(self._directory_fd)
            raise

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``."""
        fds = [ice.put(self._fd), ice.put(self._directory_fd)]
        return {"path": self.path, "fds": fds, "max_size": self._max_size, "size": self._size, "lost": self._lost}

    @classmethod
    def thaw(cls, ice: Thawing, values: Values) -> LogFile:
        """The log that was frozen."""
        log = cls.__new__(cls)
        log.path, log._name = values["path"], os.path.basename(values["path"])
        log._fd, log._directory_fd = (ice.take(place) for place in values["fds"])
        log._max_size, log._size, log._lost = values["max_size"], values["size"], values["lost"]
        log._second, log._second_text = -1, b""
        return log

    @property
    def lost(self) -> int:
        """Bytes that could not be written (a full disk)."""
        return self._lost

    @property
    def is_open(self) -> bool:
        """Whether ``close`` has not been called."""
        return self._fd >= 0

    def write(self, records: bytes) -> None:
        """Append whole lines. A failure of the disk is counted, never raised: the container goes on."""
        while self._max_size and self._size + len(records) > self._max_size:
            fitting = records.rfind(b"\n", 0, max(0, self._max_size - self._size)) + 1
            self._append(records[:fitting])
            records = records[fitting:]
            if not self._rotate():
                break
        self._append(records)

    def _append(self, records: bytes) -> None:
        view = memoryview(records)
        try:
            while view:
                done = os.write(self._fd, view)
                self._size += done
                view = view[done:]
        except OSError:
            self._lost += len(view)

    def stamp(self) -> bytes:
        """The time now, as it stands at the start of a line."""
        second, nanos = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        return b"%s%09dZ " % (self._second_text, nanos)

    def close(self) -> None:
        """Close the file; harmless the second time."""
        for name in ("_fd", "_directory_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(self._name, flags, 0o640, dir_fd=self._directory_fd)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> bool:
        """Whether there is a new file now."""
        try:
            os.rename(self._name, f"{self._name}.1", src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except FileNotFoundError:
            pass  # Somebody moved it away; a new one is what they want.
        except OSError:
            return False  # Growing on is better than losing lines.
        old = self._fd
        try:
            self._open()
        except OSError:
            self._fd = old
            return False
        os.close(old)
        return self._size < self._max_size


class LineWriter:
    """One stream of a process (``stdout`` or ``stderr``) on its way into a ``LogFile``."""

    __slots__ = ("_log", "_rest", "_stream")

    def __init__(self, log: LogFile, stream: str, rest: bytes = b"") -> None:
        self._log = log
        self._stream = stream.encode()
        self._rest = rest

    @property
    def rest(self) -> bytes:
        """The beginning of a line that is not complete."""
        return self._rest

    def feed(self, data: bytes) -> None:
        """Log what is complete in ``data``; keep the beginning of a line (at most 16 KiB) for the next call."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        stamp = self._log.stamp() + self._stream
        full, part = stamp + b" F ", stamp + b" P "
        out: list[bytes] = []
        for line in lines:
            while len(line) > MAX_TEXT:
                out += (part, line[:MAX_TEXT], b"\n")
                line = line[MAX_TEXT:]
            out += (full, line, b"\n")
        while len(self._rest) > MAX_TEXT:
            out += (part, self._rest[:MAX_TEXT], b"\n")
            self._rest = self._rest[MAX_TEXT:]
        if out:
            self._log.write(b"".join(out))

    def finish(self) -> None:
        """The stream has ended: what is left had no newline."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._log.write(self._log.stamp() + self._stream + b" P " + rest + b"\n")


def parse_size(text: str) -> int:
    """Bytes of ``10m``, ``4k``, ``1g`` or a plain number, as in ``max-size``; ValueError otherwise."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 0)
    digits = text[:-1] if factor else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        raise ValueError(f"{text!r} is not a size")
    return int(digits) * (factor or 1)
