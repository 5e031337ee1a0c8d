"""Plugins served on sockets of their own: ours, and the stargz snapshotter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.peers import accepts, need_root, stop, wait_for

STARGZ = Path(os.environ.get("PORTSIDE_CACHE", "/var/cache/portside")) / "stargz/stargz-snapshotter"
"""Made by script/stargz from Debian's source of its library; Debian packages ctr-remote alone."""


@dataclass
class Peer:
    """A plugin that runs."""

    socket: Path
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def served(directory: Path, type: str, *options: str) -> Iterator[Peer]:
    """A ``portside serve-plugin``, with its root in ``directory``."""
    need_root()
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "p.sock"
    command = [sys.executable, "-m", "portside.cli.main", "serve-plugin", type, "-a", str(socket), "-l", "debug"]
    command += [] if type == "diff" else ["--root", str(directory / "root")]
    with _running([*command, *options], directory / "log", socket) as peer:
        yield peer


@contextmanager
def stargz(directory: Path) -> Iterator[Peer]:
    """A stargz snapshotter; whatever it has mounted is unmounted when it ends."""
    need_root()
    if not STARGZ.exists():
        pytest.skip("needs the stargz snapshotter (script/stargz)")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "s.sock"
    with _running([str(STARGZ), str(directory / "root"), str(socket)], directory / "log", socket) as peer:
        yield peer


@contextmanager
def _running(command: list[str], log: Path, socket: Path) -> Iterator[Peer]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def is_up() -> bool:
        if process.poll() is not None:
            pytest.fail(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
        return accepts(socket)

    try:
        wait_for(is_up, f"{command[0]}, see {log}")
        yield Peer(socket, process, log)
    finally:
        stop(process)
