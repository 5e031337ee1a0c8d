"""What is asked of systemd; with a real one, in a booted machine, that it does so."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from portside.errors import AlreadyExists, InvalidArgument, Unimplemented
from portside.linux.cgroups import Cgroup, layout
from portside.linux.cgroups.systemd import limit_properties
from portside.linux.namespaces import clone3
from tests.support.children import sleeper

M = 1 << 20
INFINITY = (1 << 64) - 1


@pytest.mark.parametrize(
    ("resources", "properties"),
    [
        ({}, {}),
        ({"memory": {"limit": M, "swap": 3 * M}}, {"MemoryMax": ("t", M), "MemorySwapMax": ("t", 2 * M)}),
        ({"memory": {"limit": -1}}, {"MemoryMax": ("t", INFINITY), "MemorySwapMax": ("t", INFINITY)}),
        ({"memory": {"reservation": M}}, {"MemoryLow": ("t", M)}),
        ({"pids": {"limit": 0}}, {"TasksMax": ("t", 1)}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": ("t", 100)}),
        (
            {"cpu": {"quota": 50000, "period": 100000}},
            {"CPUQuotaPerSecUSec": ("t", 500000), "CPUQuotaPeriodUSec": ("t", 100000)},
        ),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": ("t", INFINITY), "CPUQuotaPeriodUSec": ("t", 100000)}),
        ({"cpu": {"cpus": "0-2,9", "mems": "0"}}, {"AllowedCPUs": ("ay", [7, 2]), "AllowedMemoryNodes": ("ay", [1])}),
        ({"blockIO": {"weight": 10}}, {"IOWeight": ("t", 1)}),
        ({"unified": {"memory.high": "max"}}, {"MemoryHigh": ("t", INFINITY)}),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, {}),
    ],
)
def test_properties(resources, properties):
    assert dict(limit_properties(resources)) == properties


@pytest.mark.parametrize("cpus", ["x", "1-", "-1", "99999999999", "0,,1"])
def test_lists_of_processors_are_checked(cpus):
    with pytest.raises(InvalidArgument):
        limit_properties({"cpu": {"cpus": cpus}})


@pytest.mark.skipif(layout().mode == "unified", reason="needs a machine with cgroup v1")
def test_version_1_is_left_out():
    with pytest.raises(Unimplemented, match="systemd"):
        Cgroup.create("/system.slice/portside-x.scope", systemd=True)


needs_systemd = pytest.mark.skipif(
    not Path("/run/systemd/system").exists() or layout().mode != "unified" or os.geteuid() != 0,
    reason="needs root, systemd and cgroup v2 alone",
)
UNIT = f"portside-test-{os.getpid()}.scope"
PATH = f"/portside.slice/portside-tests.slice/{UNIT}"


def show(name):
    done = subprocess.run(["systemctl", "show", "--value", "-p", name, UNIT], capture_output=True, text=True)
    return done.stdout.strip()


@needs_systemd
@pytest.mark.parametrize("path", ["/a/b", "/a.slice/b", "/a/b.scope", "/b.scope"])
def test_the_path_is_a_scope_in_a_slice(path):
    with pytest.raises(InvalidArgument, match="scope in a slice"):
        Cgroup.create(path, systemd=True)


@needs_systemd
def test_a_scope_lives_with_its_container():
    group = Cgroup.create(PATH, {"pids": {"limit": 30}, "memory": {"limit": 64 * M}}, systemd=True)
    try:
        assert show("ActiveState") == "active"
        assert show("ControlGroup") == PATH
        assert show("Delegate") == "yes"
        assert show("TasksMax") == "30"
        fd = group.fd_for_clone()
        pid, pidfd = clone3(0, fd)
        if pid == 0:
            signal.pause()
            os._exit(0)
        os.close(fd)
        os.close(pidfd)
        group.attach(pid, cloned=True)
        assert group.pids() == [pid]
        group.update({"pids": {"limit": 40}})
        assert show("TasksMax") == "40"
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        directory = group.directories()[0]
        assert Path(directory, "pids.max").read_text() == "40\n"
        assert Path(directory, "memory.max").read_text() == f"{64 * M}\n"
        group.kill()
        os.waitpid(pid, 0)
    finally:
        group.remove()
    assert not group.exists()
    assert show("ActiveState") == "inactive"
    group.remove()


@needs_systemd
def test_the_place_is_kept_until_the_first_process_is_there():
    group = Cgroup.create(PATH, systemd=True)
    try:
        (keeper,) = group.pids()
        with sleeper() as pid:
            Path(group.directories()[0], "cgroup.procs").write_text(str(pid))
            assert os.waitpid(keeper, 0)[0] == keeper
            assert group.pids() == [pid]
            group.kill()
            os.waitpid(pid, 0)
    finally:
        group.kill()
        group.remove()


@needs_systemd
def test_a_name_is_free_at_once_when_its_scope_was_removed():
    for _ in range(3):
        group = Cgroup.create(PATH, systemd=True)
        with sleeper() as pid:
            group.attach(pid)
            with pytest.raises(AlreadyExists):
                Cgroup.create(PATH, systemd=True)
            assert group.pids() == [pid]
            group.kill()
            os.waitpid(pid, 0)
        group.remove()


@needs_systemd
def test_a_scope_that_cannot_have_its_limits_goes_again():
    with pytest.raises(OSError, match="nonesuch"):
        Cgroup.create(PATH, {"unified": {"memory.nonesuch": "1"}}, systemd=True)
    assert show("ActiveState") == "inactive"
    assert not Cgroup.open(PATH, systemd=True).exists()
