"""The engines that are measured side by side, each private: our daemon, Debian's containerd, and a newer one.

A newer containerd comes from a root of Debian's next suite (``script/peers``). It runs there in a mount namespace of
its own, in which that root is the root: runtimes pivot, so a chroot is not enough. One rule for all: same kernel, same
image from the same registry, overlayfs, no network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{directory}/run/containerd.sock"
"""

_ENTER = """
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
for dir in proc sys dev; do mount --rbind "/$dir" "$0/$dir"; done
# crun refuses a host with controllers on version 1 and a version 2 mount beside them.
if [ -d "$0/sys/fs/cgroup/unified" ]; then umount -l "$0/sys/fs/cgroup/unified"; fi
cd "$0"
pivot_root . mnt
umount -l /mnt
exec "$@"
"""


@dataclass
class Stack:
    """A running engine: its socket for clients on the host, and the client that belongs to it."""

    name: str
    socket: Path
    pid: int
    reach: Path
    """The same socket as a path of this process."""
    ctr: list[str] = field(default_factory=lambda: ["ctr"])
    run_flags: list[str] = field(default_factory=list)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One ctr command against it; raises with what it said."""
        command = [*self.ctr, "-a", str(self.socket), *words]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {result.stderr or result.stdout}")
        return result


@contextlib.contextmanager
def ours(directory: Path) -> Iterator[Stack]:
    """Our daemon."""
    sock = directory / "state/portside.sock"
    command = [str(Path(sys.executable).parent / "portside"), "daemon", "--root", str(directory / "root")]
    with serving([*command, "--state", str(directory / "state")], directory, sock) as pid:
        yield Stack("portside", sock, pid, sock)


@contextlib.contextmanager
def debian(directory: Path) -> Iterator[Stack]:
    """Debian 12's containerd with runc."""
    with serving(_containerd(directory), directory, directory / "run/containerd.sock") as pid:
        sock = directory / "run/containerd.sock"
        yield Stack(f"containerd {_version(['containerd'])}, runc", sock, pid, sock)


@contextlib.contextmanager
def newer(root: Path, *, crun: bool = False, place: str = "bench", keep: bool = False) -> Iterator[Stack]:
    """The containerd of ``root``, with runc or crun, in its ``/tmp/<place>``, which stays at the end with ``keep``."""
    inside = Path("/tmp") / place
    outside = root / "tmp" / place
    shutil.rmtree(outside, ignore_errors=True)
    (outside / "run").mkdir(parents=True)
    (outside / "config.toml").write_text(_CONFIG.format(directory=inside))
    enter = ["unshare", "-m", "sh", "-c", _ENTER, str(root)]
    command = [*enter, "containerd", "-c", f"{inside}/config.toml", "--root", f"{inside}/root"]
    command += ["--state", f"{inside}/state"]
    version = _version(["chroot", str(root), "containerd"])
    name = f"containerd {version}, {'crun' if crun else 'runc'}"
    with serving(command, outside, outside / "run/containerd.sock") as pid:
        flags = ["--runc-binary", "/usr/bin/crun"] if crun else []
        # The client of the same suite, in the same root: fifos are made where the shim sees them.
        ctr = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--root=/proc/{pid}/root", "--wd=/", "ctr"]
        yield Stack(name, inside / "run/containerd.sock", pid, outside / "run/containerd.sock", ctr, flags)
    if not keep:
        shutil.rmtree(outside, ignore_errors=True)


def _containerd(directory: Path) -> list[str]:
    (directory / "run").mkdir(parents=True)
    (directory / "config.toml").write_text(_CONFIG.format(directory=directory))
    command = ["containerd", "-c", str(directory / "config.toml"), "--root", str(directory / "root")]
    return [*command, "--state", str(directory / "state")]


def _version(command: list[str]) -> str:
    words = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return words[2].partition("~")[0].partition("+")[0]


@contextlib.contextmanager
def serving(command: list[str], directory: Path, sock: Path) -> Iterator[int]:
    """Run ``command`` while the block lasts; entered when it accepts connections on ``sock``. Its pid."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not _accepts(sock):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve:\n{(directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
