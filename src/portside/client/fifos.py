"""The fifos between a client and the shim of one process, and the one place where all of ours lie.

Standard library only, and little of it: it is on the path of every ``run`` and ``exec``. What does not belong here:
who reads and writes them (``client/streams.py`` on an event loop, ``cli/attach.py`` without one).
"""

from __future__ import annotations

import fcntl
import os

from portside.errors import PermissionDenied

_NAMES = ("stdin", "stdout", "stderr")
_swept: set[str] = set()


def fifo_directory() -> str:
    """Ours for fifos: below the runtime directory, private to this user."""
    if os.geteuid() == 0:
        return "/run/portside/fifo"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/portside-{os.geteuid()}", "portside", "fifo")


class Fifos:
    """The fifos of one process in a private directory below ``base``, whatever the umask; ``remove`` ends them.

    The directory's name starts with our pid and we hold a lock on it, so that what a killed client has left can be
    told from what is in use: the first ones that a process makes sweep that up.
    """

    def __init__(self, base: str, *, stdin: bool, terminal: bool) -> None:
        _make_base(base)
        self.directory = os.path.join(base, f"{os.getpid()}-{os.urandom(6).hex()}")
        os.mkdir(self.directory, 0o700)
        self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            if base not in _swept:
                _swept.add(base)
                sweep(base)
            self.stdin = self._make("stdin") if stdin else ""
            self.stdout = self._make("stdout")
            self.stderr = "" if terminal else self._make("stderr")
        except BaseException:
            self.remove()
            raise

    def _make(self, name: str) -> str:
        path = os.path.join(self.directory, name)
        os.mkfifo(path, 0o600)
        return path

    def remove(self) -> None:
        """Remove them; who has them open goes on. A second time does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _remove(self.directory)
            os.close(lock)


def sweep(base: str) -> None:
    """Remove what killed clients have left: their number is gone and nobody holds the lock on the directory."""
    for name in os.listdir(base):
        if os.path.exists(f"/proc/{name.partition('-')[0]}"):
            continue
        try:
            fd = os.open(os.path.join(base, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # The numbers of another pid namespace mean nothing here, so the lock has the last word.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(os.path.join(base, name))
        except OSError:
            pass
        finally:
            os.close(fd)


def _make_base(base: str) -> None:
    """``base`` with what is above it; PermissionDenied if it is there and another user's, as may happen below /tmp."""
    os.makedirs(os.path.dirname(base), exist_ok=True)
    try:
        os.mkdir(base, 0o700)
    except FileExistsError:
        pass
    for directory in (base, os.path.dirname(base), os.path.dirname(os.path.dirname(base))):
        if os.lstat(directory).st_uid not in (0, os.geteuid()):
            raise PermissionDenied(f"fifos at {base}: {directory} belongs to another user")


def _remove(directory: str) -> None:
    for name in _NAMES:
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            continue
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return
