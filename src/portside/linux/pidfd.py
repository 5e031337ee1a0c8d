"""Processes by descriptor: a number may be recycled, a pidfd may not (pidfd_open(2)).

What belongs here: opening, signalling, waiting. Reaping is the business of whoever owns the child.
"""

from __future__ import annotations

import os
import select

from portside.linux import signals


def pidfd_open(pid: int) -> int:
    """A close-on-exec descriptor for process ``pid``; the caller closes it. ESRCH if there is none."""
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """Send signal ``number``; ``ProcessLookupError`` once the process has been reaped."""
    signals.send(pidfd, number)


def wait_exit(pidfd: int, timeout: float | None = None) -> bool:
    """Wait until the process has ended, without reaping it; False if ``timeout`` seconds pass first."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0, int(timeout * 1000))))


def reap(pidfd: int) -> int | None:
    """Reap our child: its status as ``os.waitpid`` has it, waiting for the end; None if somebody else reaped it."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status << 8 if result.si_code == os.CLD_EXITED else result.si_status
