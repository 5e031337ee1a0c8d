"""Containers that end and are brought up again: by ``run --restart``, by labels alone, over restarts of the daemon."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portside import connect
from portside.client.run_options import RunOptions
from portside.errors import PortsideError
from portside.sdk.task import Task
from tests.support import leftovers
from tests.support.containerd import containerd
from tests.support.peers import Daemon, wait_for

pytestmark = pytest.mark.root

NAMESPACE = f"again-{os.getpid()}"
PREFIX = "containerd.io/restart."


def portside(daemon: Daemon, *words: str, check: bool = True) -> str:
    return daemon.portside("-n", NAMESPACE, *words, check=check).stdout


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    return json.loads(portside(daemon, "inspect", name))[0]


def runs_as(daemon: Daemon, name: str) -> int:
    """The pid of its first process; 0 while it does not run."""
    return int(inspect(daemon, name)["State"]["Pid"])


def lines(daemon: Daemon, name: str) -> int:
    return len(portside(daemon, "logs", name).splitlines())


@pytest.fixture(scope="module")
def image(daemon: Daemon, busybox: str) -> Iterator[str]:
    portside(daemon, "pull", "-q", busybox)
    yield busybox
    for row in portside(daemon, "ps", "-a").splitlines()[1:]:
        portside(daemon, "rm", "-f", row.split()[0], check=False)
    leftovers.remove_empty_cgroups(NAMESPACE)


@pytest.fixture
def name() -> str:
    return f"c{uuid.uuid4().hex[:10]}"


def test_always_until_it_is_stopped(daemon: Daemon, image: str, name: str) -> None:
    portside(daemon, "run", "-d", "--restart", "always", "--name", name, image, "sh", "-c", "echo up; sleep 0.1")
    wait_for(lambda: lines(daemon, name) >= 3, "three starts")
    assert inspect(daemon, name)["RestartPolicy"] == "always"
    assert inspect(daemon, name)["RestartCount"] >= 2
    portside(daemon, "stop", "-t", "1", name)
    count = inspect(daemon, name)["RestartCount"]
    assert inspect(daemon, name)["Labels"][PREFIX + "explicitly-stopped"] == "true"
    portside(daemon, "start", name)
    found = inspect(daemon, name)
    assert PREFIX + "explicitly-stopped" not in found["Labels"]
    assert found["RestartCount"] < count
    before = lines(daemon, name)
    wait_for(lambda: lines(daemon, name) > before, "one more start")
    portside(daemon, "rm", "-f", name)
    assert name not in portside(daemon, "ps", "-a")


def test_a_crash_is_no_stop(daemon: Daemon, image: str, name: str) -> None:
    portside(daemon, "run", "-d", "--restart", "unless-stopped", "--name", name, image, "sleep", "1000")
    first = runs_as(daemon, name)
    os.kill(first, 9)
    wait_for(lambda: runs_as(daemon, name) not in (0, first), "it to be up again")
    second = runs_as(daemon, name)
    daemon.ctr("-n", NAMESPACE, "task", "kill", "-s", "KILL", inspect(daemon, name)["Id"])
    wait_for(lambda: runs_as(daemon, name) not in (0, second), "it to be up again after a kill through the API")
    portside(daemon, "kill", name)
    wait_for(lambda: inspect(daemon, name)["State"]["Status"] == "exited", "its end")
    assert inspect(daemon, name)["Labels"][PREFIX + "explicitly-stopped"] == "true"
    portside(daemon, "rm", name)


def test_on_failure_gives_up(daemon: Daemon, image: str, name: str) -> None:
    portside(daemon, "run", "-d", "--restart", "on-failure:2", "--name", name, image, "sh", "-c", "echo up; exit 3")

    def given_up() -> bool:
        found = inspect(daemon, name)
        return found["RestartCount"] == 2 and found["State"]["Status"] == "exited" and lines(daemon, name) == 3

    wait_for(given_up, "two more starts and no third")
    assert inspect(daemon, name)["State"]["ExitCode"] == 3
    portside(daemon, "start", name)
    wait_for(lambda: lines(daemon, name) == 6, "two more starts, since somebody started it anew")
    portside(daemon, "rm", "-f", name)


def test_on_failure_and_success(daemon: Daemon, image: str, name: str) -> None:
    once = "test -e /was && exit 0; touch /was; exit 1"
    portside(daemon, "run", "-d", "--restart", "on-failure", "--name", name, image, "sh", "-c", once)
    wait_for(lambda: inspect(daemon, name)["RestartCount"] == 1, "its second start")
    wait_for(lambda: inspect(daemon, name)["State"]["Status"] == "exited", "its end")
    assert inspect(daemon, name)["State"]["ExitCode"] == 0
    portside(daemon, "rm", name)


def test_it_is_removed_between_two_starts(daemon: Daemon, image: str, name: str) -> None:
    portside(daemon, "run", "-d", "--restart", "always", "--name", name, image, "sh", "-c", "echo up")
    wait_for(lambda: lines(daemon, name) >= 2, "its second start")
    id = inspect(daemon, name)["Id"]
    portside(daemon, "rm", "-f", name)
    assert id not in daemon.ctr("-n", NAMESPACE, "containers", "ls").stdout
    wait_for(lambda: id not in daemon.ctr("-n", NAMESPACE, "tasks", "ls").stdout, "its task to be gone")


def test_what_does_not_go_together(daemon: Daemon, image: str) -> None:
    both = daemon.portside("-n", NAMESPACE, "run", "--rm", "--restart", "always", image, "true", check=False)
    assert both.returncode == 125
    assert "always" in both.stderr
    odd = daemon.portside("-n", NAMESPACE, "run", "-d", "--restart", "sometimes", image, "true", check=False)
    assert odd.returncode == 125
    assert "sometimes" in odd.stderr
    assert "on-failure[:COUNT]" in odd.stderr


def test_by_labels_alone(daemon: Daemon, image: str, name: str) -> None:
    """A client that knows containerd's labels and not us; its task has no policy of our own to go by."""
    ctr = ("-n", NAMESPACE)
    options = [f"--label={PREFIX}policy=always"]
    daemon.ctr(*ctr, "run", "-d", *options, image, name, "sh", "-c", "sleep 1000")
    daemon.ctr(*ctr, "containers", "label", name, f"{PREFIX}status=running")
    daemon.ctr(*ctr, "task", "kill", "-s", "KILL", name)

    def counted(number: int) -> bool:
        labels = json.loads(daemon.ctr(*ctr, "containers", "info", name).stdout)["Labels"]
        return labels.get(PREFIX + "count") == str(number) and bool(runs_as(daemon, name))

    wait_for(lambda: counted(1), "its first restart")
    daemon.ctr(*ctr, "containers", "label", name, f"{PREFIX}status=stopped")
    wait_for(lambda: name not in daemon.ctr(*ctr, "tasks", "ls").stdout, "the monitor to stop it")
    daemon.ctr(*ctr, "containers", "label", name, f"{PREFIX}status=")
    daemon.ctr(*ctr, "containers", "rm", name)


def test_a_client_that_sets_labels_before_it_starts_is_not_disturbed(daemon: Daemon, image: str, name: str) -> None:
    """As nerdctl does it, which would fail if the monitor were faster."""
    ctr = ("-n", NAMESPACE)
    labels = [f"--label={PREFIX}{key}" for key in ("status=running", "policy=always", "explicitly-stopped=true")]
    daemon.ctr(*ctr, "run", "-d", *labels, image, name, "sleep", "1000")
    daemon.ctr(*ctr, "task", "kill", "-s", "KILL", name)
    wait_for(lambda: "STOPPED" in daemon.ctr(*ctr, "tasks", "ls").stdout, "its end")
    daemon.ctr(*ctr, "containers", "label", name, f"{PREFIX}explicitly-stopped=false")
    daemon.ctr(*ctr, "task", "rm", name)
    daemon.ctr(*ctr, "task", "start", "-d", name)
    assert runs_as(daemon, name)
    daemon.ctr(*ctr, "containers", "label", name, f"{PREFIX}status=")
    daemon.ctr(*ctr, "task", "rm", "-f", name)
    daemon.ctr(*ctr, "containers", "rm", name)


def test_only_created(daemon: Daemon, image: str, name: str) -> None:
    """What has a policy and was never started is not started by anybody."""
    labels = [f"--label={PREFIX}{key}" for key in ("status=created", "policy=always")]
    daemon.ctr("-n", NAMESPACE, "containers", "create", *labels, image, name, "true")
    assert inspect(daemon, name)["State"]["Status"] == "created"
    portside(daemon, "start", name)
    wait_for(lambda: inspect(daemon, name)["RestartCount"] >= 2, "two restarts")
    portside(daemon, "rm", "-f", name)


def test_over_restarts_of_the_daemon(own_daemon: Daemon, busybox: str) -> None:
    daemon = own_daemon
    portside(daemon, "pull", "-q", busybox)
    for policy in ("always", "unless-stopped", "no"):
        for end in ("crashed", "stopped"):
            words = ("--restart", policy, "--name", f"{policy}-{end}", busybox, "sleep", "1000")
            portside(daemon, "run", "-d", *words)
    kept = runs_as(daemon, "always-stopped")
    assert kept
    pids = {policy: runs_as(daemon, f"{policy}-crashed") for policy in ("always", "unless-stopped", "no")}
    for policy in pids:
        portside(daemon, "stop", "-t", "0", f"{policy}-stopped")
    daemon.kill()
    for pid in pids.values():
        os.kill(pid, 9)
    daemon.start()
    for policy in ("always", "unless-stopped"):
        wait_for(lambda policy=policy: runs_as(daemon, f"{policy}-crashed") not in (0, pids[policy]), f"{policy}")
    # Docker's difference between the two: what was stopped by hand comes up with the daemon, or does not.
    wait_for(lambda: runs_as(daemon, "always-stopped") not in (0, kept), "always to be meant")
    assert not runs_as(daemon, "unless-stopped-stopped")
    assert not runs_as(daemon, "no-crashed")
    running = {name: runs_as(daemon, name) for name in ("always-crashed", "unless-stopped-crashed", "always-stopped")}
    daemon.kill()
    daemon.start()
    assert {name: runs_as(daemon, name) for name in running} == running
    for policy in pids:
        portside(daemon, "rm", "-f", f"{policy}-crashed", f"{policy}-stopped")
    leftovers.remove_empty_cgroups(NAMESPACE)


async def test_containerd_keeps_to_our_labels(busybox: str, tmp_path: Path) -> None:
    """What the library writes on a container is what containerd's monitor acts on, and leaves alone once stopped."""
    more = "[plugins.'io.containerd.internal.v1.restart']\ninterval = '1s'\n"
    with containerd(tmp_path, more) as socket:
        async with connect(f"unix://{socket}", namespace=NAMESPACE) as client:
            await client.pull(busybox)
            options = RunOptions(restart="always")
            task = await client.run(busybox, ["sleep", "1000"], options=options, detach=True, keep=True)
            first = await task.pid()
            os.kill(first, 9)
            async with asyncio.timeout(60):
                while not await _pid(task) or await _pid(task) == first:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await task.stop(0)
            assert (await task.inspect())["Labels"][PREFIX + "status"] == "created"
            await task.remove()


async def _pid(task: Task) -> int:
    """0 while it does not run."""
    try:
        return await task.pid()
    except PortsideError:
        return 0
