"""Everything that a daemon of ours could leave behind, counted before and after."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.peers import SLOWNESS, Daemon, wait_for

Count = dict[str, frozenset[str]]


class Census:
    """Of one daemon and one namespace of it; taken when it is made."""

    def __init__(self, daemon: Daemon, namespace: str, *directories: Path) -> None:
        """``directories``: where clients have their fifos."""
        self._daemon, self._namespace, self._directories = daemon, namespace, directories
        self._before = self.count()

    def count(self) -> Count:
        """What there is, by kind."""
        daemon, namespace = self._daemon, self._namespace
        task = "io.containerd.runtime.v2.task"
        blobs = daemon.root / "io.containerd.content.v1.content"
        places = {
            "bundles": daemon.state / task / namespace,
            "work directories": daemon.root / task / namespace,
            "sockets": daemon.state / "s",
            "snapshots": daemon.root / "io.containerd.snapshotter.v1.overlayfs/snapshots",
            "logs": daemon.root / "io.portside.verbs.v1.logs" / namespace,
            "ingests": blobs / "ingest",
            "blobs": blobs / "blobs/sha256",
        }
        fifos: set[str] = set()
        for directory in (daemon.state / task, *self._directories):
            fifos |= leftovers.fifos(directory)
        lists = {
            verb: frozenset(daemon.ctr("-n", namespace, *verb.split()).stdout.split())
            for verb in ("containers ls -q", "tasks ls -q", "leases ls -q", "images ls -q")
        }
        return lists | {
            **{kind: _names(path) for kind, path in places.items()},
            "mounts": frozenset(path for path in leftovers.mounts() if path.startswith(str(daemon.state.parent))),
            "shims": _shims(namespace),
            "cgroups": frozenset(path for path in leftovers.cgroups(f"/{namespace}/")),
            "fifos": frozenset(fifos),
        }

    def check(self, seconds: float = 10) -> None:
        """What was there then is there now and nothing else, soon."""
        try:
            wait_for(lambda: not self._left() and not self._lost(), "what is left to go", seconds / SLOWNESS)
        except pytest.fail.Exception:
            pytest.fail(f"left: {self._left()}; lost: {self._lost()}\n{self._daemon.log.read_text()[-3000:]}")

    def _left(self) -> dict[str, list[str]]:
        now = self.count()
        return {kind: sorted(now[kind] - self._before[kind]) for kind in now if now[kind] - self._before[kind]}

    def _lost(self) -> frozenset[str]:
        """Images that should have stayed. Of the rest, what was on its way out may have been counted before."""
        return self._before["images ls -q"] - self.count()["images ls -q"]


def _shims(namespace: str) -> frozenset[str]:
    """Pids of keepers: the worker of a shim comes and goes as it is needed, and ends with its keeper."""
    found = set(leftovers.processes(f"portside-shim -namespace {namespace} "))
    return frozenset(str(pid) for pid in found if _parent(pid) not in found)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0])
        except FileNotFoundError:
            continue
    return sorted(found)


def zygote_of(pid: int) -> int:
    """The pid of a daemon's zygote."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"portside-zygote" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return _zygote_by_parent(pid)


def _zygote_by_parent(pid: int) -> int:
    """The thread that started it may not be the first one."""
    for other in leftovers.processes("portside-zygote"):
        if _parent(other) == pid:
            return other
    pytest.fail(f"daemon {pid} has no zygote")


def _names(directory: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except FileNotFoundError:
        return frozenset()
