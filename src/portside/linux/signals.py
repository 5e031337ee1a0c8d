"""Signals without the enumerations of Python's ``signal`` module.

Importing that takes a command 4 ms of its 12, and using it touches much memory that shims share. What belongs here: the
few names that we use, from the module beneath. Of numbers, only plain integers.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what ``signal`` is made of; there is no stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Final

SIGCHLD: Final[int] = _signal.SIGCHLD
SIGHUP: Final[int] = _signal.SIGHUP
SIGINT: Final[int] = _signal.SIGINT
SIGKILL: Final[int] = _signal.SIGKILL
SIGPIPE: Final[int] = _signal.SIGPIPE
SIGQUIT: Final[int] = _signal.SIGQUIT
SIGTERM: Final[int] = _signal.SIGTERM
SIGUSR1: Final[int] = _signal.SIGUSR1
SIGUSR2: Final[int] = _signal.SIGUSR2
SIGWINCH: Final[int] = _signal.SIGWINCH
SIGXFSZ: Final[int] = _signal.SIGXFSZ


def handle(number: int, handler: Callable[[int, FrameType | None], Any] | int | None) -> Any:
    """Call ``handler`` for signal ``number`` (signal.signal); what was done before, to be put back the same way."""
    return _signal.signal(number, handler)


def reset(number: int) -> None:
    """Let signal ``number`` do what it does by itself."""
    _signal.signal(number, _signal.SIG_DFL)


def ignore(number: int) -> None:
    """Ignore signal ``number``, in what this process execs, too."""
    _signal.signal(number, _signal.SIG_IGN)


def set_wakeup_fd(fd: int) -> None:
    """Write each signal's number to ``fd`` (-1: no longer); a full one is not worth a word."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def send(pidfd: int, number: int) -> None:
    """Send signal ``number`` to a process (pidfd_send_signal(2)); ProcessLookupError once it was reaped."""
    _signal.pidfd_send_signal(pidfd, number)
