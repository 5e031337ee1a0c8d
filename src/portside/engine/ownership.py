"""One owner per root: a lock that also says where the owner serves.

The lock is a flock on ``<root>/lock``, so it ends with its holder however that ends. The file holds the address of
the owner's socket: who finds the root locked becomes a client of it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from portside.errors import FailedPrecondition
from portside.metadata.holders import holders


class RootLocked(FailedPrecondition):
    """Somebody else owns the root; ``address`` is the socket where it serves (empty if it does not say)."""

    def __init__(self, root: Path, address: str) -> None:
        owner = ", ".join(holders(root / "lock")) or "another process"
        super().__init__(f"root {root}: owned by {owner}" + (f", which serves on {address}" if address else ""))
        self.address = address


class RootLock:
    """Holds a root until closed."""

    def __init__(self, root: Path, address: str) -> None:
        """Make ``root`` (0700, whatever the umask) and take it; RootLocked if it is taken."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        self._fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 4096, 0).decode(errors="replace").strip()
            self.close()
            raise RootLocked(root, owner) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{address}\n".encode(), 0)

    def close(self) -> None:
        """Let go; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
