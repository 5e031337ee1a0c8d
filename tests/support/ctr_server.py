"""A server, ours or Debian's containerd, with both commands for it: ``portside ctr`` and Debian's ``ctr``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import peers
from tests.support.containerd import containerd
from tests.support.peers import Daemon


class Server:
    """A server and both commands for it."""

    def __init__(self, address: Path, image: str) -> None:
        self.address, self.image = address, image
        self.command = [sys.executable, "-m", "portside.cli.main", "-a", str(address), "ctr"]

    def ours(self, *words: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        return peers.run(*self.command, *words, check=check, **kwargs)

    def theirs(self, *words: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        return peers.run("ctr", "-a", str(self.address), *words, check=check, **kwargs)

    def same(self, *words: str, columns: int = 0) -> list[list[str]]:
        """Rows that both print, in any order: all of their cells, or the first ``columns``."""
        ours, theirs = (rows(run(*words).stdout, columns) for run in (self.ours, self.theirs))
        assert sorted(ours) == sorted(theirs)
        return ours


def rows(text: str, columns: int = 0) -> list[list[str]]:
    """Cells of lines, all or the first ``columns``."""
    return [line.split()[: columns or None] for line in text.splitlines()]


@contextmanager
def ctr_server(kind: str, image: str, directory: Path) -> Iterator[Server]:
    """``portside`` or ``containerd``, with ``image`` pulled by our command. What runs at the end is ended."""
    peers.need_root()
    peers.need_program("ctr")
    if kind == "portside":
        daemon = Daemon(directory, f'version = 3\n[debug]\naddress = "{directory}/debug.sock"\n')
        daemon.start()
        try:
            yield _with_image(daemon.socket, image)
        finally:
            daemon.stop()
        return
    with containerd(directory) as address:
        server = Server(address, image)
        try:
            yield _with_image(address, image)
        finally:
            for id in server.theirs("tasks", "ls", "-q", check=False).stdout.split():
                server.theirs("tasks", "rm", "-f", id, check=False)


def _with_image(address: Path, image: str) -> Server:
    server = Server(address, image)
    said = server.ours("images", "pull", "--plain-http", image).stdout
    assert re.fullmatch(r"unpacking linux/\w+ sha256:[0-9a-f]{64}\.\.\.\ndone: [0-9.]+s\t\n", said)
    return server
