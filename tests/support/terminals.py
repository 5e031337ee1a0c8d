"""A pseudo-terminal of a chosen size around a command, as a person's terminal would be."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

import pytest

from tests.support.peers import SLOWNESS


class Terminal:
    """A running command whose three streams are one terminal. Closed at the end of a ``with``."""

    def __init__(self, *command: str, rows: int = 30, columns: int = 100) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns, self._master)
        try:
            self.process = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_take_terminal
            )
        finally:
            os.close(slave)
        self.output = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int, fd: int = -1) -> None:
        """The kernel tells the command's group with SIGWINCH."""
        fcntl.ioctl(self._master if fd < 0 else fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        """Keys."""
        os.write(self._master, text)

    def wait_for(self, text: bytes, seconds: float = 20) -> None:
        """Read until ``text`` is on the screen."""
        deadline = time.monotonic() + seconds * SLOWNESS
        while text not in self.output:
            if not self._read(deadline):
                pytest.fail(f"{text!r} did not appear; there was {self.output!r}")

    def finish(self, seconds: float = 20) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + seconds * SLOWNESS
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            pytest.fail(f"no more output in time; there was {self.output!r}")
        try:
            data = os.read(self._master, 4096)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.output += data
        return bool(data)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
