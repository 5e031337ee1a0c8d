"""The daemon is killed and started again, over and over; containers, their logs and how they end do not care."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.census import Census
from tests.support.peers import Daemon, wait_for

pytestmark = pytest.mark.root

RESTARTS = 100 if os.environ.get("PORTSIDE_SOAK") else 10
NAMESPACE = f"restart-{os.getpid()}"
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.005; done"


def portside(daemon: Daemon, *words: str) -> str:
    return daemon.portside("-n", NAMESPACE, *words).stdout


def ctr(daemon: Daemon, *words: str) -> str:
    return daemon.ctr("-n", NAMESPACE, *words).stdout


def running(daemon: Daemon) -> set[str]:
    """Ids of tasks that answer that they run."""
    rows = [line.split() for line in ctr(daemon, "tasks", "ls").splitlines()[1:]]
    return {id for id, _, status in rows if status == "RUNNING"}


def pid_of(daemon: Daemon, name: str) -> int:
    return int(json.loads(portside(daemon, "inspect", name))[0]["State"]["Pid"])


def gone(pid: int) -> bool:
    """Whether a process has ended and was reaped."""
    return not Path(f"/proc/{pid}").exists()


def numbers(daemon: Daemon, name: str) -> list[int]:
    """What a counting container wrote; the line that is being written is left out."""
    return [int(line) for line in portside(daemon, "logs", name).splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def house(own_daemon: Daemon, busybox: str) -> Iterator[Daemon]:
    portside(own_daemon, "pull", "-q", busybox)
    portside(own_daemon, "run", "--rm", busybox, "true")
    yield own_daemon
    leftovers.remove_empty_cgroups(NAMESPACE)


def test_many_restarts(house: Daemon, busybox: str) -> None:
    census = Census(house, NAMESPACE)
    ids = {portside(house, "run", "-d", "--name", f"count{i}", busybox, "sh", "-c", COUNT).strip() for i in range(2)}
    ctr(house, "run", "-d", busybox, "by-ctr", "sleep", "100000")
    ids.add("by-ctr")
    for number in range(RESTARTS):
        if number % 5 == 4:
            assert house.process is not None
            house.process.send_signal(signal.SIGTERM)
            house.process.wait(30)
        else:
            house.kill()
        house.start()
        assert running(house) == ids
        if number % 5 == 0:
            assert portside(house, "exec", "count0", "echo", "alive") == "alive\n"
    for i in range(2):
        found = numbers(house, f"count{i}")
        assert found == list(range(len(found)))
        assert len(found) > RESTARTS
    portside(house, "rm", "-f", "count0", "count1")
    ctr(house, "tasks", "rm", "-f", "by-ctr")
    ctr(house, "containers", "rm", "by-ctr")
    census.check()


def test_an_end_while_the_daemon_is_away(house: Daemon, busybox: str) -> None:
    census = Census(house, NAMESPACE)
    script = "trap 'exit 7' TERM; while :; do sleep 0.05; done"
    portside(house, "run", "-d", "--name", "ends", busybox, "sh", "-c", script)
    portside(house, "run", "-d", "--rm", "--name", "goes", busybox, "sh", "-c", script)
    ctr(house, "run", "-d", busybox, "by-ctr", "sh", "-c", script)
    pids = [pid_of(house, name) for name in ("ends", "goes", "by-ctr")]
    before = time.time()
    house.kill()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: all(map(gone, pids)), "the containers to end")
    after = time.time()
    house.start()
    assert portside(house, "wait", "ends") == "7\n"
    assert "code 7" in house.ctr("-n", NAMESPACE, "tasks", "rm", "by-ctr").stderr
    found = json.loads(portside(house, "inspect", "ends"))[0]["State"]
    assert (found["Status"], found["ExitCode"]) == ("exited", 7)
    ended = time.mktime(time.strptime(found["FinishedAt"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert int(before) <= ended <= after
    wait_for(lambda: "goes" not in portside(house, "ps", "-a"), "the one that removes itself to be gone")
    portside(house, "rm", "ends")
    ctr(house, "containers", "rm", "by-ctr")
    census.check()


def test_waiters_and_subscribers_after_a_restart(house: Daemon, busybox: str) -> None:
    """Who asks the new daemon hears of an end, also of one that the shim could not tell while there was none."""
    script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    portside(house, "run", "-d", "--name", "ends", busybox, "sh", "-c", script)
    wait_for(lambda: "ready" in portside(house, "logs", "ends"), "the trap")
    pid = pid_of(house, "ends")
    house.kill()
    shims = list(leftovers.processes(f"portside-shim -namespace {NAMESPACE} "))
    assert shims
    for shim in shims:
        os.kill(shim, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "the end")
    house.start()
    command = [sys.executable, "-m", "portside.cli.main", "-a", str(house.socket), "-n", NAMESPACE]
    with (
        subprocess.Popen([*command, "events", "-f", 'topic~="^/tasks"'], stdout=subprocess.PIPE) as events,
        subprocess.Popen([*command, "wait", "ends"], stdout=subprocess.PIPE) as waiter,
    ):
        wait_for(lambda: _connections(house) >= 2, "both to be connected")
        for shim in shims:
            os.kill(shim, signal.SIGCONT)
        assert waiter.communicate(timeout=30)[0] == b"7\n"
        assert events.stdout is not None
        event = json.loads(events.stdout.readline())
        assert (event["topic"], event["event"]["exit_status"]) == ("/tasks/exit", 7)
        events.kill()
    portside(house, "rm", "ends")


def _connections(daemon: Daemon) -> int:
    """Connections to the daemon's socket that have been accepted (column 6: state 03)."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[-1] == str(daemon.socket) and row[5] == "03")


def test_who_waits_does_not_keep_the_daemon(house: Daemon, busybox: str) -> None:
    """They are told, and the container goes on."""
    command = [sys.executable, "-m", "portside.cli.main", "-a", str(house.socket), "-n", NAMESPACE]
    script = "echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [*command, "run", "--name", "on", busybox, "sh", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        wait_for(lambda: "on" in portside(house, "ps"), "the start to be known")
        assert house.process is not None
        house.process.send_signal(signal.SIGTERM)
        _, said = client.communicate(timeout=30)
        assert (client.returncode, len(said.splitlines())) == (125, 1), said
    house.process.wait(30)
    house.start()
    assert portside(house, "ps", "-q")
    portside(house, "rm", "-f", "on")


def test_the_machine_was_switched_off(house: Daemon, busybox: str) -> None:
    """What is in ``state`` is gone with all processes: containers are there, do not run, and can be started."""
    portside(house, "run", "-d", "--name", "again", busybox, "sh", "-c", "echo started; sleep 1000")
    pid = pid_of(house, "again")
    id = json.loads(portside(house, "inspect", "again"))[0]["Id"]
    shim = json.loads((house.state / "io.containerd.runtime.v2.task" / NAMESPACE / id / "state.json").read_text())
    house.kill()
    for victim in (shim["shim"]["pid"], pid):
        os.kill(victim, signal.SIGKILL)
    wait_for(lambda: gone(pid), "the container to be dead")
    subprocess.run(["rm", "-rf", house.state], check=True)
    house.start()
    assert portside(house, "ps", "-q") == ""
    assert "again" in portside(house, "ps", "-a")
    portside(house, "start", "again")
    wait_for(lambda: portside(house, "logs", "again") == "started\nstarted\n", "it to start again")
    portside(house, "rm", "-f", "again")
