"""A newer containerd and its ctr (``script/peers``) that see what the machine's own clients and shims make.

Runs in a mount namespace with directories bound to the same places; ``newer.py`` has those that need nothing of this.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.peers import accepts, need_root, stop, wait_for

ROOT = Path(os.environ.get("PORTSIDE_CACHE") or "/var/cache/portside") / "forky"

_CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{directory}/c.sock"
[ttrpc]
  address = "{directory}/c.sock.ttrpc"
[debug]
  address = "{directory}/debug.sock"
"""

# A mount namespace in which that root is the root, as runtimes pivot. What clients of the machine and the server both
# must see is bound to the same place in it.
_ENTER = """
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
for dir in proc sys dev; do mount --rbind "/$dir" "$0/$dir"; done
for dir in $SHARED; do mkdir -p "$dir" "$0$dir"; mount --bind "$dir" "$0$dir"; done
cd "$0"
pivot_root . mnt
umount -l /mnt
exec "$@"
"""


@dataclass(frozen=True)
class Newer:
    """A running one: its socket, on this machine and in its namespace the same path, and its own client."""

    socket: Path
    ctr: tuple[str, ...]


@contextmanager
def newer(directory: Path, *shared: Path, serve: bool = True) -> Iterator[Newer]:
    """``directory`` and ``shared`` are at the same paths inside. Without ``serve`` there is only the client."""
    need_root()
    if not (ROOT / ".complete").exists():
        pytest.skip("needs the root that script/peers makes")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(_CONFIG.format(directory=directory))
    places = [str(place) for place in (directory, *shared, "/run/portside", "/run/containerd")]
    made = [place for place in places if not (ROOT / place.lstrip("/")).exists()]
    command = ["containerd", "-c", str(directory / "config.toml")] if serve else ["sleep", "infinity"]
    enter = ["unshare", "-m", "sh", "-c", _ENTER, str(ROOT), "sh", "-c", f'touch {directory}/in; exec "$0" "$@"']
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*enter, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "SHARED": " ".join(places)},
        )  # fmt: skip
    try:
        sock = directory / "c.sock"
        wait_for(lambda: accepts(sock) if serve else (directory / "in").exists(), f"the newer root, {directory}/log")
        inside = ("nsenter", f"--mount=/proc/{process.pid}/ns/mnt", f"--root=/proc/{process.pid}/root", "--wd=/")
        yield Newer(sock, (*inside, "ctr"))
    finally:
        stop(process)
        for place in made:
            _remove_empty(ROOT / place.lstrip("/"))


def _remove_empty(path: Path) -> None:
    """The place that something was bound to, and those above that are only there for it."""
    while path.parent != ROOT:
        try:
            path.rmdir()
        except OSError:
            return
        path = path.parent
