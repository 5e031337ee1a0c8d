"""Real groups on this machine, whatever its layout."""

import os
import select
import signal
import threading
import time

import pytest

from portside.errors import FailedPrecondition, InvalidArgument
from portside.linux.cgroups import Cgroup, layout
from portside.linux.cgroups.tree import descend
from portside.linux.namespaces import clone3
from tests.support.children import in_child, sleeper

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or layout().mode == "none", reason="needs root and control groups")

M = 1 << 20
PARENT = f"/portside-test-{os.getpid()}"


@pytest.fixture(autouse=True)
def no_leftovers():
    yield
    Cgroup.open(PARENT).remove()
    assert not Cgroup.open(PARENT).exists()


@pytest.fixture
def group():
    made = Cgroup.create(f"{PARENT}/one")
    yield made
    made.kill()
    made.remove()


def needs(controller):
    """Skip where the layout has no such controller to give."""
    found = layout()
    if found.mode == "unified":
        with open(f"{found.v2}/cgroup.controllers") as file:
            there = controller in file.read().split()
    else:
        there = controller in found.v1
    if not there:
        pytest.skip(f"needs the {controller} controller")


def read(group, v1, v2):
    """A file of the group by its name in either version."""
    controller = v1.partition(".")[0]
    if group.version == 2:
        directory, name = group.directories()[0], v2
    else:
        directory, name = layout().v1[controller] + group.path, v1
    with open(f"{directory}/{name}") as file:
        return file.read().strip()


def test_limits_are_there_when_create_returns():
    needs("memory")
    needs("pids")
    group = Cgroup.create(
        f"{PARENT}/limited",
        {
            "memory": {"limit": 64 * M},
            "pids": {"limit": 9},
            "cpu": {"shares": 512, "quota": 20000, "period": 40000},
        },
    )
    assert read(group, "memory.limit_in_bytes", "memory.max") == str(64 * M)
    assert read(group, "pids.max", "pids.max") == "9"
    if group.version == 2:
        assert read(group, "", "cpu.max") == "20000 40000"
    else:
        assert read(group, "cpu.cfs_quota_us", "") == "20000"


def test_update_leaves_the_rest_alone():
    needs("pids")
    needs("memory")
    group = Cgroup.create(f"{PARENT}/updated", {"memory": {"limit": 64 * M}, "pids": {"limit": 9}})
    group.update({"pids": {"limit": 11}})
    assert read(group, "pids.max", "pids.max") == "11"
    assert read(group, "memory.limit_in_bytes", "memory.max") == str(64 * M)


@pytest.mark.parametrize("steps", [(64, 64), (128, 256), (32, 32), (300, 300), (16, -1), (64, 100)])
def test_memory_with_swap_goes_up_and_down(steps):
    needs("memory")
    group = Cgroup.create(f"{PARENT}/swap", {"memory": {"limit": 100 * M, "swap": 120 * M}})
    limit, swap = (step if step < 0 else step * M for step in steps)
    try:
        group.update({"memory": {"limit": limit, "swap": swap}})
    except FileNotFoundError:
        pytest.skip("needs swap accounting")
    assert read(group, "memory.limit_in_bytes", "memory.max") == str(limit)


def test_less_than_is_used_is_refused_if_asked_for():
    needs("memory")
    group = Cgroup.create(f"{PARENT}/used")
    with sleeper() as pid:
        group.attach(pid)
        in_child(lambda: (group.attach(0), len(bytearray(8 * M)))[1])
        usage = int(read(group, "memory.usage_in_bytes", "memory.current"))
        if usage:
            with pytest.raises(FailedPrecondition, match="in use"):
                group.update({"memory": {"limit": max(usage // 2, 1), "checkBeforeUpdate": True}})
        group.kill()


def test_a_failed_create_leaves_nothing():
    needs("pids")
    with pytest.raises(OSError, match="notanumber"):
        Cgroup.create(f"{PARENT}/failed", {"cpu": {"cpus": "notanumber"}})
    assert not Cgroup.open(f"{PARENT}/failed").exists()
    with pytest.raises(InvalidArgument):
        Cgroup.create(f"{PARENT}/failed", {"pids": {"limit": "x"}})
    assert not Cgroup.open(f"{PARENT}/failed").exists()


def test_an_empty_group_is_taken_over_and_one_with_processes_is_not(group):
    with sleeper() as pid:
        again = Cgroup.create(group.path)
        again.attach(pid)
        with pytest.raises(FailedPrecondition, match="not empty"):
            Cgroup.create(group.path)
        assert again.pids() == [pid]


def test_attach_joins_every_hierarchy(group):
    with sleeper() as pid:
        group.attach(pid)
        with open(f"/proc/{pid}/cgroup") as file:
            paths = {line.strip().split(":", 2)[2] for line in file}
        assert paths == {group.path}
        assert group.pids() == [pid]


def test_kill_reaches_everything_below(group):
    with sleeper() as one, sleeper() as two:
        group.attach(one)
        below = Cgroup.create(f"{group.path}/below/deeper")
        below.attach(two)
        assert group.pids() == sorted([one, two])
        group.kill()
        for pid in (one, two):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        group.remove()
        assert not group.exists()


def test_other_signals(group):
    with sleeper() as pid:
        group.attach(pid)
        group.kill(signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_a_frozen_group_can_be_killed(group):
    needs("freezer") if group.version == 1 else None
    with sleeper() as pid:
        group.attach(pid)
        group.freeze()
        group.kill()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_signal_to_a_frozen_group_waits_for_thaw(group):
    needs("freezer") if group.version == 1 else None
    with sleeper() as pid:
        group.attach(pid)
        group.freeze()
        group.kill(signal.SIGTERM)
        assert group.frozen()
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        group.thaw()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_freezing_stops_and_thawing_goes_on(group):
    needs("freezer") if group.version == 1 else None
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        while True:
            os.write(writer, b".")
            time.sleep(0.001)
    try:
        group.attach(pid)
        assert os.read(reader, 1)
        group.freeze()
        assert group.frozen()
        os.set_blocking(reader, False)
        try:
            while os.read(reader, 65536):
                pass
        except BlockingIOError:
            pass
        time.sleep(0.02)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        group.thaw()
        assert not group.frozen()
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b"."
    finally:
        os.close(reader)
        os.close(writer)
        group.kill()
        os.waitpid(pid, 0)


def test_remove_waits_for_the_last_process(group):
    with sleeper() as pid:
        group.attach(pid)
        killer = threading.Timer(0.05, lambda: (os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)))
        killer.start()
        group.remove()
        killer.join()
        assert not group.exists()


def test_remove_gives_up(group):
    with sleeper() as pid:
        group.attach(pid)
        with pytest.raises(OSError, match="busy"):
            group.remove(timeout=0.01)


def test_gone_groups_have_nothing():
    group = Cgroup.open(f"{PARENT}/never")
    assert not group.exists()
    assert group.pids() == []
    assert not group.frozen()
    group.remove()
    group.kill()


def test_sub_groups_are_checked(group):
    below = Cgroup.create(f"{group.path}/inner")
    with sleeper() as pid:
        group.sub("inner").attach(pid)
        assert below.pids() == [pid]
        assert group.sub("/inner/").pids() == [pid]
    with pytest.raises(InvalidArgument, match="bad sub cgroup path"):
        group.sub("../..")
    with pytest.raises(FileNotFoundError):
        group.sub("missing")


def test_sub_group_of_one_controller(group):
    if group.version == 2:
        with pytest.raises(FailedPrecondition):
            group.sub("inner", ["memory"])
        return
    needs("memory")
    os.mkdir(f"{layout().v1['memory']}{group.path}/inner")
    with sleeper() as pid:
        group.sub("inner", ["memory"]).attach(pid)
        with open(f"/proc/{pid}/cgroup") as file:
            where = {line.split(":", 2)[1]: line.strip().split(":", 2)[2] for line in file}
        assert where["memory"] == f"{group.path}/inner"
        assert where["pids"] == group.path
        group.kill()
        os.waitpid(pid, 0)
    with pytest.raises(FailedPrecondition, match="nosuch"):
        group.sub("inner", ["nosuch"])


def test_clone_into_the_group(group):
    fd = group.fd_for_clone()
    if fd < 0:
        pytest.skip("needs cgroup2")
    try:
        reader, writer = os.pipe()
        pid, pidfd = clone3(0, fd)
        if pid == 0:
            with open("/proc/self/cgroup", "rb") as file:
                os.write(writer, file.read())
            os._exit(0)
        os.close(pidfd)
        os.close(writer)
        text = os.read(reader, 65536).decode()
        os.waitpid(pid, 0)
        os.close(reader)
        assert f"0::{group.path}\n" in text
        with sleeper() as other:
            group.attach(other, cloned=True)  # all but version 2
    finally:
        os.close(fd)


def test_device_rules_hold():
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}]
    group = Cgroup.create(f"{PARENT}/devices", {"devices": rules})

    def work():
        group.attach(0)
        os.close(os.open("/dev/null", os.O_RDWR))
        try:
            os.close(os.open("/dev/zero", os.O_RDONLY))
        except PermissionError:
            return "refused"
        return "opened"

    assert in_child(work) == "refused"
    group.update({"pids": {"limit": 100}})
    assert in_child(work) == "refused"
    group.update({"devices": [{"allow": True, "access": "rwm"}]})
    assert in_child(work) == "opened"


def test_stats_have_the_fields_of_the_messages():
    from google.protobuf import json_format

    group = Cgroup.create(f"{PARENT}/stats", {"pids": {"limit": 50}})
    with sleeper() as pid:
        group.attach(pid)
        found = group.stats()
        group.kill()
        os.waitpid(pid, 0)
    if group.version == 2:
        from portside.wire.pb.io.containerd.cgroups import cgroup2_pb2 as messages
    else:
        from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2 as messages
    json_format.ParseDict(found, messages.Metrics())  # refuses a name that no field has
    assert "cpu" in found
    if "pids" in found:
        assert found["pids"] == {"current": 1, "limit": 50}


def test_out_of_memory_is_told():
    needs("memory")
    group = Cgroup.create(f"{PARENT}/oom", {"memory": {"limit": 8 * M, "swap": 8 * M}})
    watch = group.oom_watch()
    poll = select.epoll()
    try:
        assert watch.kills() == 0
        poll.register(watch.fileno(), watch.events)
        pid = os.fork()
        if pid == 0:
            group.attach(0)
            hog = []
            while True:
                hog.append(bytearray(os.urandom(4096)) * 256)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert poll.poll(10)
        deadline = time.monotonic() + 10
        killed = watch.kills()
        while not killed and time.monotonic() < deadline:
            poll.poll(1)
            killed += watch.kills()
        assert killed == 1
        assert watch.kills() == 0
        assert not watch.gone
        group.remove()
        watch.kills()
        assert watch.gone
    finally:
        poll.close()
        watch.close()
        watch.close()
    assert watch.fileno() == -1


def test_descend_is_deepest_first(tmp_path):
    for path in ("a/b/c", "a/d", "e"):
        (tmp_path / path).mkdir(parents=True)
    found = [path.removeprefix(str(tmp_path)) for path in descend(str(tmp_path))]
    assert sorted(found) == ["", "/a", "/a/b", "/a/b/c", "/a/d", "/e"]
    for index, path in enumerate(found):
        assert not any(later.startswith(path + "/") for later in found[index + 1 :])
