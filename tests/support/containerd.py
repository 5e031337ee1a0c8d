"""Debian's containerd on a private root: the real peer of our clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import leftovers
from tests.support.peers import accepts, need_program, need_root, stop, wait_for

NEWER = os.environ.get("PORTSIDE_CACHE", "/var/cache/portside") + "/forky/usr/bin/containerd"
"""That of Debian's next suite (script/peers), which runs here, too."""
CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = {disabled}
[grpc]
address = "{directory}/c.sock"
[ttrpc]
address = "{directory}/c.sock.ttrpc"
"""


@contextmanager
def containerd(
    directory: Path, more: str = "", disabled: tuple[str, ...] = (), program: str = "containerd"
) -> Iterator[Path]:
    """The socket of a containerd of our own, without CRI; stopped by its pid. ``more`` is added to its configuration,
    ``disabled`` to the plugins that are; ``program`` may be ``NEWER``, which shows its age in the API, not in shims."""
    need_root()
    need_program(program, "ctr", "containerd-shim-runc-v2")
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.toml"
    config.write_text(
        CONFIG.format(directory=directory, disabled=json.dumps(["io.containerd.grpc.v1.cri", *disabled])) + more
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: accepts(directory / "c.sock"), f"containerd, see {directory}/log")
        yield directory / "c.sock"
    finally:
        stop(process)
        _clear_away(directory)


def _clear_away(directory: Path) -> None:
    """Shims and mounts of a test that failed halfway: they outlive their containerd, by design."""
    for pid in leftovers.processes("containerd-shim-runc-v2"):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(directory / "c.sock") in arguments:
            os.kill(pid, signal.SIGKILL)
    for place in sorted(leftovers.mounts(), reverse=True):
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", place], check=False)
