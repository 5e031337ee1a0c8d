"""The daemon as a unit of systemd: it tells when it is ready, and containers outlive its restart and its crash."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images, peers
from tests.support.peers import run, wait_for

SOURCE = Path(__file__).resolve().parents[2] / "packaging/portside.service"
UNIT = Path("/etc/systemd/system/portside.service")
COMMAND = Path("/usr/local/bin/portside")
COUNTING = "i=0; while [ ! -e /stop ]; do echo line $i; i=$((i+1)); sleep 1; done; exit 7"


def show(name: str) -> str:
    return run("systemctl", "show", "--value", "-p", name, "portside").stdout.strip()


def portside(*words: str, check: bool = True) -> str:
    return run(str(COMMAND), *words, check=check).stdout.strip()


@pytest.fixture(scope="module")
def unit() -> Iterator[None]:
    """The unit as it is packaged, enabled and started."""
    shutil.copy(SOURCE, UNIT)
    COMMAND.symlink_to(Path(sys.executable).with_name("portside"))
    run("systemctl", "daemon-reload")
    started = run("systemctl", "enable", "--now", "portside", check=False)
    if started.returncode:
        pytest.fail(run("journalctl", "--no-pager", "-n", "60", "-u", "portside", check=False).stdout)
    yield
    run("systemctl", "disable", "--now", "portside")
    UNIT.unlink()
    COMMAND.unlink()


@pytest.fixture(scope="module")
def image(unit: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with peers.registry(tmp_path_factory.mktemp("registry")) as host:
        reference = images.push(host, "test/busybox", "latest", images.busybox_image())
        portside("pull", "--plain-http", "-q", reference)
        yield reference


@pytest.fixture
def counting(image: str) -> Iterator[str]:
    """A container that writes a line a second and ends with status 7 once it has a file /stop."""
    name = "counting"
    portside("run", "-d", "--name", name, "--network", "none", image, "sh", "-c", COUNTING)
    wait_for(lambda: lines_of(name) > 1, "the first lines")
    yield name
    portside("rm", "-f", name, check=False)


def lines_of(name: str) -> int:
    return len(portside("logs", name).splitlines())


def pid_of(name: str) -> int:
    return int(json.loads(portside("inspect", name))[0]["State"]["Pid"])


def test_start_returns_when_the_daemon_is_ready(unit: None) -> None:
    assert show("Type") == "notify"
    assert show("ActiveState") == "active"
    assert show("Delegate") == "yes"
    assert show("KillMode") == "process"
    assert "portside" in portside("version").lower()


def goes_on(name: str, pid: int) -> None:
    """Same process, more lines, and in the end its own status and all of its lines."""
    assert pid_of(name) == pid
    before = lines_of(name)
    wait_for(lambda: lines_of(name) > before, "further lines")
    portside("exec", name, "touch", "/stop")
    assert portside("wait", name) == "7"
    said = portside("logs", name).splitlines()
    assert said == [f"line {number}" for number in range(len(said))]
    assert len(said) > before


def test_a_container_outlives_a_restart_of_the_unit(counting: str) -> None:
    pid, daemon = pid_of(counting), show("MainPID")
    run("systemctl", "restart", "portside")
    assert show("MainPID") != daemon
    goes_on(counting, pid)


def test_a_container_outlives_a_crash_and_the_unit_comes_back(counting: str) -> None:
    pid, daemon = pid_of(counting), show("MainPID")
    run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "portside")
    wait_for(lambda: show("ActiveState") == "active" and show("MainPID") not in ("0", daemon), "the unit", 60)
    goes_on(counting, pid)


def test_an_exit_without_a_daemon_is_not_lost(counting: str) -> None:
    pid = pid_of(counting)
    run("systemctl", "stop", "portside")
    assert Path(f"/proc/{pid}").exists()
    Path(f"/proc/{pid}/root/stop").touch()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the container's end")
    run("systemctl", "start", "portside")
    assert portside("wait", counting) == "7"


def test_a_container_in_a_scope_of_systemds(image: str) -> None:
    ctr = ("ctr", "-a", "/run/portside/portside.sock")
    unit = "vmtest-one.scope"
    options = ("-d", "--runc-systemd-cgroup", "--cgroup", "portside.slice:vmtest:one", "--memory-limit", "67108864")
    run(*ctr, "run", *options, image, "one", "sleep", "1000")
    try:
        shown = run("systemctl", "show", "-p", "ActiveState,ControlGroup,MemoryMax", unit).stdout
        assert "ActiveState=active" in shown
        assert f"ControlGroup=/portside.slice/{unit}" in shown
        assert "MemoryMax=67108864" in shown
        run("systemctl", "daemon-reload")
        pid = run(*ctr, "t", "ls").stdout.split("one", 1)[1].split()[0]
        assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::/portside.slice/{unit}\n"
        limit = Path(f"/sys/fs/cgroup/portside.slice/{unit}/memory.max")
        assert limit.read_text() == "67108864\n"
    finally:
        run(*ctr, "t", "kill", "-s", "KILL", "one", check=False)
        run(*ctr, "t", "rm", "-f", "one", check=False)
        run(*ctr, "c", "rm", "one", check=False)
    wait_for(lambda: not Path(f"/sys/fs/cgroup/portside.slice/{unit}").exists(), "the end of the scope")
