"""That the machine is what the other tests need: nothing of this may be skipped where script/vm runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.linux import apparmor
from portside.linux.cgroups import Cgroup, layout
from tests.support.children import sleeper

PROFILE = """\
profile portside-test-profile flags=(attach_disconnected) {
  file,
  deny /etc/hostname r,
}
"""


def test_control_groups_are_version_2_with_controllers() -> None:
    found = layout()
    assert found.mode == "unified"
    there = Path(found.v2, "cgroup.controllers").read_text().split()
    assert {"cpu", "memory", "pids", "io", "cpuset"} <= set(there)


def test_controllers_are_on_in_a_new_group_and_pressure_is_counted() -> None:
    group = Cgroup.create("/portside-vm/one", {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}})
    try:
        with sleeper() as pid:
            group.attach(pid)
            stats = group.stats()
            group.kill()
            os.waitpid(pid, 0)
        assert stats["pids"] == {"current": 1, "limit": 20}
        assert stats["memory"]["usage_limit"] == 64 << 20
        assert stats["memory_events"]["oom_kill"] == 0
        for part in ("cpu", "memory", "io"):
            assert set(stats[part]["psi"]) == {"some", "full"}
    finally:
        Cgroup.open("/portside-vm").remove()


def test_a_process_joins_beside_another_where_groups_have_groups() -> None:
    """A container that manages groups of its own leaves its top one without processes, where none may be then."""
    top = Cgroup.create("/portside-vm/busy")
    try:
        inner = Cgroup.create("/portside-vm/busy/inner")
        Path(top.directories()[0], "cgroup.subtree_control").write_text("+pids +memory")
        with sleeper() as first, sleeper() as second:
            inner.attach(first)
            with pytest.raises(OSError, match="busy"):
                top.attach(second)
            top.attach(second, beside=first)
            assert inner.pids() == sorted([first, second])
            top.kill()
    finally:
        Cgroup.open("/portside-vm").remove()


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "profile"
    file.write_text(PROFILE)
    subprocess.run(["apparmor_parser", "--replace", file], check=True)
    yield "portside-test-profile"
    subprocess.run(["apparmor_parser", "--remove", file], check=True)


def test_apparmor_confines_from_the_next_exec_on(profile: str) -> None:
    assert apparmor.enabled()
    assert apparmor.loaded_profiles()[profile] == "enforce"

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        apparmor.set_exec_profile(proc, profile)
        os.execv("/bin/sh", ["sh", "-c", "cat /proc/self/attr/current; cat /etc/hostname || echo refused"])
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    os.waitpid(pid, 0)
    assert f"{profile} (enforce)" in said
    assert "refused" in said
