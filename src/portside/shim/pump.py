"""Copies one stream of a process to its sink, as fast as the sink takes it.

Between two pipes the kernel moves the pages (``splice``) and we never hold a byte; otherwise one chunk is read when the
sink has taken the last. So memory is bounded and a slow reader slows the writer, by the pipe, as without us.
"""

from __future__ import annotations

import os
import stat

from portside.shim.frozen import NotQuiet
from portside.shim.loop import READ, WRITE, close_fd
from portside.shim.sinks import PATIENCE, Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from portside.shim.frozen import Freezing, Values
    from portside.shim.loop import Loop, Timer

CHUNK: Final = 64 << 10
DRAIN_CHUNKS: Final = 32
"""How much is drained at the exit of a process (2 MiB): more than a pipe holds, and no child can make it endless."""
_SPLICE = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class Pump:
    """Owns ``source`` (set to non-blocking) and ``sink``; closes both at the end of the stream and tells ``ended``."""

    __slots__ = ("_ended", "_loop", "_source", "_splice", "_timer", "_waiting", "finished", "sink")

    def __init__(self, loop: Loop, source: int, sink: Sink, ended: Callable[[], None]) -> None:
        os.set_blocking(source, False)
        self._loop = loop
        self._source = source
        self.sink = sink
        self._splice = sink.spliceable and stat.S_ISFIFO(os.fstat(source).st_mode)
        self._ended = ended
        self._timer: Timer | None = None
        self._waiting = False
        self.finished = False
        """Whether the end of the stream was reached, or ``close`` called."""
        loop.watch(source, READ, self._readable)

    def drain(self) -> None:
        """Move what is in the pipe now, without waiting for anything."""
        for _ in range(DRAIN_CHUNKS):
            if self.finished or self._waiting or not self._step():
                return

    def abandon(self) -> None:
        """Close the sink, so that its readers see the end; what is still written is read and forgotten.

        Closing the pipe instead would kill a process that goes on writing to it.
        """
        if self.finished:
            return
        self._stop_waiting()
        self.sink.close()
        self.sink, self._splice = Sink(), False
        self._loop.watch(self._source, READ, self._readable)

    def close(self) -> None:
        """End now, whatever is left."""
        if self.finished:
            return
        self.finished = True
        self._stop_waiting()
        self._loop.forget(self._source)
        close_fd(self._source)
        self.sink.close()
        self._ended()

    def freeze(self, ice: Freezing) -> Values:
        """See ``frozen.py``; a pump that waits for its sink is not quiet."""
        if self._waiting or self.finished:
            raise NotQuiet
        return {"source": ice.put(self._source, watch=READ), "sink": self.sink.freeze(ice)}

    def _readable(self, _ready: int) -> None:
        if not self._waiting and not self.finished:
            self._step()

    def _step(self) -> bool:
        """Move one chunk; whether to go on at once."""
        try:
            if self._splice:
                moved = os.splice(self._source, self.sink.fd, 1 << 20, flags=_SPLICE)
                if moved:
                    return True
            else:
                data = os.read(self._source, CHUNK)
                if data:
                    if self.sink.write(data):
                        return True
                    self._wait()
                    return False
        except BlockingIOError:
            if self._splice:
                self._wait()  # Either side may have been the reason; if it was ours, this ends at once.
            return False
        except OSError:  # EIO: the last process closed its side of the terminal.
            pass
        self.close()
        return False

    def _wait(self) -> None:
        """Leave the source alone until the sink has room."""
        self._waiting = True
        self._loop.forget(self._source)
        self._loop.watch(self.sink.fd, WRITE, self._writable)
        if not self._splice:
            self._timer = self._loop.later(PATIENCE, self._impatient)

    def _writable(self, _ready: int) -> None:
        fd = self.sink.fd
        if self.sink.flush():
            self._resume(fd)
        elif self._timer is not None:
            self._timer.cancel()  # It took something.
            self._timer = self._loop.later(PATIENCE, self._impatient)

    def _impatient(self) -> None:
        fd = self.sink.fd
        if self._waiting and self.sink.give_up():
            self._resume(fd)

    def _resume(self, fd: int) -> None:
        self._stop_waiting(fd)
        self._loop.watch(self._source, READ, self._readable)

    def _stop_waiting(self, fd: int = -1) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.forget(fd if fd >= 0 else self.sink.fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
