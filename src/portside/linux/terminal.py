"""Terminals: making a pair, its size, and putting one into raw mode.

The other side of a pair is opened through its master (TIOCGPTPEER), never by a path: in a container's /dev somebody
may have put another file there. Sources: pty(7), ioctl_tty(2), termios(3). Copying data does not belong here.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import stat
import struct
import termios

from portside.linux.mount import DEVPTS_SUPER_MAGIC, filesystem_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_TIOCGPTN, _TIOCSPTLCK, _TIOCGPTPEER = 0x80045430, 0x40045431, 0x5441
_UNIX98_MAJORS = range(136, 144)
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6  # places in what tcgetattr returns


def open_master(ptmx: str = "/dev/ptmx", *, dir_fd: int | None = None) -> int:
    """A new pair's master, unlocked; the caller closes it. OSError (ENODEV) if ``ptmx`` is not what makes terminals."""
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        found = os.fstat(master)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(5, 2):
            raise OSError(errno.ENODEV, "not a terminal multiplexer (character device 5:2)", ptmx)
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
    except BaseException:
        os.close(master)
        raise
    return master


def open_peer(master: int) -> int:
    """The other side of the pair; the caller closes it."""
    peer = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        check_peer(peer)
    except BaseException:
        os.close(peer)
        raise
    return peer


def check_peer(fd: int) -> None:
    """OSError (ENODEV) unless ``fd`` (O_PATH will do) is a terminal of a devpts."""
    found = os.fstat(fd)
    is_terminal = stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in _UNIX98_MAJORS
    if not is_terminal or filesystem_type(fd) != DEVPTS_SUPER_MAGIC:
        raise OSError(errno.ENODEV, "not a terminal of a devpts")


def number_of(master: int) -> int:
    """N of ``/dev/pts/N`` in the devpts that the master belongs to."""
    value = array.array("I", [0])
    fcntl.ioctl(master, _TIOCGPTN, value)
    return value[0]


def make_controlling(terminal: int) -> None:
    """Make ``terminal`` the controlling one of the calling process, which must lead a session without one."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def size_of(terminal: int) -> tuple[int, int]:
    """Columns and rows; zeros if nobody has set them."""
    rows, columns, _x, _y = struct.unpack("=4H", fcntl.ioctl(terminal, termios.TIOCGWINSZ, b"\0" * 8))
    return columns, rows


def resize(terminal: int, columns: int, rows: int) -> None:
    """Set the size; the foreground processes get SIGWINCH if it changed. Numbers beyond 16 bits are cut to fit."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("=4H", min(rows, 0xFFFF), min(columns, 0xFFFF), 0, 0))


def keep_newlines(terminal: int) -> None:
    """Turn off the translation of ``\\n`` into ``\\r\\n`` on output (ONLCR), for one of two terminals in a chain."""
    attributes = termios.tcgetattr(terminal)
    attributes[_OFLAG] &= ~termios.ONLCR
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)


class RawMode:
    """The terminal passes every byte on as it comes, until ``restore`` or the end of the ``with`` block."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._saved: list[Any] | None = termios.tcgetattr(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, _raw(termios.tcgetattr(terminal)))

    def restore(self) -> None:
        """Put back what was there before; a second time does nothing."""
        saved, self._saved = self._saved, None
        if saved is not None:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, saved)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


def _raw(attributes: list[Any]) -> list[Any]:
    """As cfmakeraw(3) has it."""
    attributes[_IFLAG] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    attributes[_OFLAG] &= ~termios.OPOST
    attributes[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    attributes[_CFLAG] = attributes[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    attributes[_CC][termios.VMIN] = 1
    attributes[_CC][termios.VTIME] = 0
    return attributes
