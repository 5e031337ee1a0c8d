"""Attacks that need the right moment, a few rounds each; PORTSIDE_RACE_ROUNDS asks for more (2000, say)."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from portside.linux.syscalls import declare
from portside.runtime.failure import RuntimeFailure
from tests.runtime.box import Box, finish

ROUNDS = int(os.environ.get("PORTSIDE_RACE_ROUNDS", "25"))
_RENAME_EXCHANGE = 2
_renameat2 = declare("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Another process exchanges the two names all the time."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                _renameat2(-100, os.fsencode(one), -100, os.fsencode(other), _RENAME_EXCHANGE)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def mountinfo() -> str:
    with open("/proc/self/mountinfo") as file:
        return file.read()


def ours(box: Box) -> list[str]:
    """Mounts of the host's namespace that have to do with the box."""
    return [line for line in mountinfo().splitlines() if str(box.bundle.parent) in line]


def attempts(box: Box, script: str, change: Any) -> Iterator[str]:
    """What ``script`` wrote in each container that could be made."""
    for _ in range(ROUNDS):
        try:
            yield box.sh(script, change).text
        except RuntimeFailure:
            continue


@pytest.mark.parametrize("exists", [True, False])
def test_destinations_that_change_under_us(box: Box, tmp_path: Path, exists: bool) -> None:
    """CVE-2021-30465, CVE-2024-45310."""
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True) if exists else outside.mkdir()
    (box.root / "vol/a").mkdir(parents=True)
    if exists:
        (box.root / "vol/a/x").mkdir()
    (box.root / "vol/b").symlink_to("../" * 20 + str(outside).lstrip("/"))
    before = sorted(str(path) for path in outside.rglob("*"))

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].append({"destination": "/vol/a/x", "type": "tmpfs", "source": "tmpfs"})
        spec["mounts"].append({"destination": "/vol/a/x/y/z", "type": "bind", "source": "/etc", "options": ["rbind"]})

    with exchanging(box.root / "vol/a", box.root / "vol/b"):
        for _ in attempts(box, "true", change):
            assert sorted(str(path) for path in outside.rglob("*")) == before
            assert not ours(box)


def test_a_proc_that_changes_under_us(box: Box) -> None:
    """CVE-2019-19921, CVE-2023-27561: where the real /proc is seen, it is masked."""
    (box.root / "fake").symlink_to("/tmp")

    with exchanging(box.root / "proc", box.root / "fake"):
        for text in attempts(box, "stat -f -c %T /proc; stat -c %t:%T /proc/timer_list", _mask_timer_list):
            # The directory may be exchanged between the two looks as well; a plain file would be 0:0.
            assert "0:0" not in text


def _mask_timer_list(spec: dict[str, Any]) -> None:
    spec["linux"]["maskedPaths"] = ["/proc/timer_list"]


def test_a_null_that_changes_under_us(box: Box, tmp_path: Path) -> None:
    """CVE-2025-31133: what covers a masked file is the null device or nothing runs."""
    shared = tmp_path / "dev"
    shared.mkdir()
    os.mknod(shared / "null", 0o20666, os.makedev(1, 3))
    (shared / "other").symlink_to("/proc/version")

    def change(spec: dict[str, Any]) -> None:
        _mask_timer_list(spec)
        spec["mounts"][1:] = [{"destination": "/dev", "type": "bind", "source": str(shared), "options": ["rbind"]}]

    with exchanging(shared / "null", shared / "other"):
        for text in attempts(box, "stat -c %t:%T /proc/timer_list", change):
            assert text == "1:3\n"


@pytest.mark.parametrize("capability", ["", "CAP_SYS_PTRACE"])
def test_joining_processes_show_nothing_of_the_host(box: Box, capability: str) -> None:
    """CVE-2016-9962: with the right to trace, a joining process can be seen, but holds nothing of the host's."""
    script = """
        cd /proc; echo ready > /ready
        while :; do for p in [0-9]*; do
            [ $p = 1 ] || [ $p = $$ ] || { readlink $p/exe $p/cwd $p/root; ls -l $p/fd; } 2>/dev/null
        done; done >> /seen
    """

    def change(spec: dict[str, Any]) -> None:
        if capability:
            for names in spec["process"]["capabilities"].values():
                names.append(capability)

    leak = os.open("/var", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(leak, True)
    spec = box.spec("/bin/sh", "-c", script)
    spec["process"]["capabilities"] = {kind: list(names) for kind, names in spec["process"]["capabilities"].items()}
    change(spec)
    try:
        with box.created(spec) as container:
            container.start()
            for _ in range(ROUNDS):
                assert box.exec(container, "/bin/true").code == 0
            container.kill(signal.SIGKILL)
            finish(container.init)
    finally:
        os.close(leak)
    seen = (box.root / "seen").read_text()
    targets = {line.rpartition(" -> ")[2] for line in seen.splitlines() if " -> " in line}
    assert "/var" not in targets
    ordinary = ("/dev/null", "socket:", "pipe:", "/tmp/", "/proc", "/bin", "/etc/passwd")  # its own, read inside
    assert {target for target in targets if target != "/" and not target.startswith(ordinary)} == set()
    if not capability:
        assert "python" not in seen
