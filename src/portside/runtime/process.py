"""A process in a container as its maker has it, and what it is given as standard streams. Just the two records."""

from __future__ import annotations


class Stdio:
    """What a process gets as standard streams: three descriptors (borrowed; -1 for /dev/null), or a terminal.

    ``width`` and ``height`` are the terminal's size in characters, 0 to take that of the spec.
    """

    __slots__ = ("height", "stderr", "stdin", "stdout", "terminal", "width")

    def __init__(
        self,
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        terminal: bool = False,
        width: int = 0,
        height: int = 0,
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal
        self.width = width
        self.height = height


class Process:
    """A process in a container. ``pidfd`` and ``console`` (a terminal's master, or -1) are the receiver's to close."""

    __slots__ = ("console", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console: int = -1) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console
