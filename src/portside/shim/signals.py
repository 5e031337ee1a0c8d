"""Signals without the enumerations of Python's ``signal`` module, whose use touches much memory that shims share.

What belongs here: the few names that shims use, from the module beneath. Of numbers, only plain integers.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what ``signal`` is made of; there is no stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Final

SIGCHLD: Final[int] = _signal.SIGCHLD
SIGHUP: Final[int] = _signal.SIGHUP
SIGINT: Final[int] = _signal.SIGINT
SIGKILL: Final[int] = _signal.SIGKILL
SIGPIPE: Final[int] = _signal.SIGPIPE
SIGTERM: Final[int] = _signal.SIGTERM
SIGXFSZ: Final[int] = _signal.SIGXFSZ


def handle(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Call ``handler`` for signal ``number`` (signal.signal)."""
    _signal.signal(number, handler)


def ignore(number: int) -> None:
    """Ignore signal ``number``, in what this process execs, too."""
    _signal.signal(number, _signal.SIG_IGN)


def set_wakeup_fd(fd: int) -> None:
    """Write each signal's number to ``fd`` (-1: no longer); a full one is not worth a word."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def send(pidfd: int, number: int) -> None:
    """Send signal ``number`` to a process (pidfd_send_signal(2)); ProcessLookupError once it was reaped."""
    _signal.pidfd_send_signal(pidfd, number)
