"""The life of a container."""

from __future__ import annotations

import os
import signal

import pytest

from portside.errors import FailedPrecondition, InvalidArgument, NotFound
from portside.linux import mount, pidfd
from portside.runtime.container import Container
from portside.runtime.failure import RuntimeFailure
from portside.runtime.naming import cgroup_path, check_id
from portside.runtime.process import Stdio
from tests.runtime.box import Box, finish


def test_it_runs_a_program_and_hands_on_its_exit_status(box: Box) -> None:
    result = box.sh("echo hello; exit 7")
    assert (result.code, result.text) == (7, "hello\n")


def test_the_program_does_not_run_before_start(box: Box) -> None:
    with box.created(box.spec("/bin/touch", "/ran")) as container:
        assert not (box.root / "ran").exists()
        assert container.pids() == [container.init.pid]
        container.start()
        assert finish(container.init) == 0
    assert (box.root / "ran").exists()


def test_it_starts_once(box: Box) -> None:
    with box.running() as container, pytest.raises(FailedPrecondition, match="has been started"):
        container.start()


def test_delete_kills_a_container_that_was_never_started(box: Box) -> None:
    with box.created(box.spec("/bin/sleep", "1000")) as container:
        container.delete()
        assert finish(container.init) == 128 + signal.SIGKILL
        assert not container.cgroup.exists()


def test_delete_of_a_running_container_needs_force(box: Box) -> None:
    with box.running() as container:
        with pytest.raises(FailedPrecondition, match="it is running"):
            container.delete()
        container.delete(force=True)
        container.delete()
        assert finish(container.init) == 128 + signal.SIGKILL


def test_kill_sends_the_signal(box: Box) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.02; done"
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        spec = box.spec("/bin/sh", "-c", script)
        with box.created(spec, stdio=Stdio(-1, writer, writer)) as container:
            os.close(writer)
            container.start()
            assert output.readline() == b"ready\n"
            container.kill(signal.SIGTERM)
            assert finish(container.init) == 42
            with pytest.raises(NotFound):
                container.kill(signal.SIGTERM)
            container.kill(signal.SIGTERM, all=True)


def test_kill_reaches_everybody_where_pids_are_shared(box: Box) -> None:
    def share(spec: dict) -> None:
        spec["linux"]["namespaces"] = [e for e in spec["linux"]["namespaces"] if e["type"] != "pid"]

    spec = box.spec("/bin/sh", "-c", "sleep 1000 & exec sleep 1000", change=share)
    with box.created(spec) as container:
        container.start()
        container.kill(signal.SIGKILL)
        finish(container.init)
        container.delete()
        assert container.pids() == []


def test_delete_removes_groups_below_and_what_is_in_them(box: Box) -> None:
    with box.running() as container:
        for directory in container.cgroup.directories():
            os.makedirs(f"{directory}/below", exist_ok=True)
        container.delete(force=True)
        assert not container.cgroup.exists()


def test_pause_and_resume(box: Box) -> None:
    with box.running() as container:
        container.pause()
        assert container.cgroup.frozen()
        with pytest.raises(FailedPrecondition, match="cannot exec in a paused container"):
            box.exec(container, "/bin/true")
        container.resume()
        assert box.exec(container, "/bin/true").code == 0


def test_a_paused_container_can_be_killed(box: Box) -> None:
    with box.running() as container:
        container.pause()
        container.kill(signal.SIGKILL)
        assert pidfd.wait_exit(container.init.pidfd, 10)


def test_limits_hold_and_can_be_changed(box: Box) -> None:
    def limit(spec: dict) -> None:
        spec["linux"]["resources"]["pids"] = {"limit": 1}

    assert "fork" in box.sh("/bin/true & wait", change=limit).text
    with box.running(limit) as container:
        container.update({"pids": {"limit": 20}})
        version, figures = container.stats()
        assert version == f"v{container.cgroup.version}"
        assert figures["pids"]["limit"] == 20


def mountinfo() -> str:
    with open("/proc/self/mountinfo") as file:
        return file.read()


def test_a_detached_mount_becomes_the_root_and_stays_off_the_host(box: Box) -> None:
    fd = mount.clone_mount(-100, str(box.root))
    before = mountinfo()
    try:
        with box.created(box.spec("/bin/touch", "/here"), rootfs_fd=fd) as container:
            assert mountinfo() == before
            container.start()
            assert finish(container.init) == 0
        assert (box.root / "here").exists()
    finally:
        os.close(fd)


def test_a_directory_elsewhere_becomes_the_root(box: Box, busybox_root) -> None:
    assert box.sh("ls /marker", rootfs=str(busybox_root)).code == 1
    (box.root / "marker").touch()
    assert box.sh("ls /marker", rootfs=str(box.root)).code == 0


def test_no_pivot(box: Box) -> None:
    result = box.sh("ls /; grep -c . /proc/self/mountinfo; ls /proc/self/fd/", no_pivot=True)
    assert result.code == 0
    assert "bin" in result.lines


def test_a_missing_program_fails_at_create(box: Box) -> None:
    with pytest.raises(RuntimeFailure, match=r'exec: "foo": executable file not found in \$PATH$') as caught:
        box.run(box.spec("foo"))
    assert str(caught.value).startswith("create container box")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/nothing", 'exec: "/nothing": stat /nothing: no such file or directory'),
        ("/etc", 'exec: "/etc": is a directory'),
        ("/plain", 'exec: "/plain": permission denied'),
        ("", 'exec: "": executable file not found in $PATH'),
    ],
)
def test_what_cannot_be_run_fails_at_create(box: Box, program: str, reason: str) -> None:
    (box.root / "etc").mkdir(exist_ok=True)
    (box.root / "plain").write_text("no program")
    with pytest.raises(RuntimeFailure) as caught:
        box.run(box.spec(program))
    assert str(caught.value).endswith(reason)


def test_a_missing_interpreter_fails_at_start_with_one_line(box: Box) -> None:
    (box.root / "run.sh").write_text("#!/no/such/shell\n")
    (box.root / "run.sh").chmod(0o755)
    with box.created(box.spec("/run.sh")) as container:
        with pytest.raises(RuntimeFailure) as caught:
            container.start()
        assert str(caught.value) == f"start container {container.id}: exec /run.sh: no such file or directory"
        assert caught.value.errno == 2
        assert finish(container.init) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\0b", "ü", "x" * 2000])
def test_ids_are_checked(name: str) -> None:
    with pytest.raises(InvalidArgument, match="container id"):
        check_id(name)


def test_a_group_with_somebody_in_it_is_refused_and_left_alone(box: Box) -> None:
    with box.running() as container:
        spec = box.spec("/bin/true")
        spec["linux"]["cgroupsPath"] = container.cgroup.path
        with pytest.raises(FailedPrecondition):
            box.run(spec)
        assert container.pids() == [container.init.pid]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("system.slice:portside:web", "/system.slice/portside-web.scope"),
        ("user-1000.slice:cri:x", "/user.slice/user-1000.slice/cri-x.scope"),
        (":p:n", "/system.slice/p-n.scope"),
        ("", "/system.slice/portside-web.scope"),
    ],
)
def test_paths_of_systemd(path: str, expected: str) -> None:
    assert cgroup_path(path, "web", systemd=True) == expected


@pytest.mark.parametrize("path", ["a", "a:b", "x.scope:p:n", "a.slice:p:", "../x.slice:p:n", "a--b.slice:p:n"])
def test_wrong_paths_of_systemd(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.cgroupsPath"):
        cgroup_path(path, "web", systemd=True)


def test_a_process_with_threads_is_refused(box: Box) -> None:
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(FailedPrecondition, match="one thread"):
            Container.create("threads", str(box.bundle), box.spec("/bin/true"), Stdio())
    finally:
        stop.set()
        thread.join()
