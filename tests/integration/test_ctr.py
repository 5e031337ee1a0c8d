"""Debian's unmodified ctr against our socket, verb by verb, on real images and real containers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import images, peers
from tests.support.peers import Daemon, wait_for

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def image(daemon: Daemon, busybox: str) -> str:
    """busybox, pulled by ctr."""
    peers.need_program("ctr")
    daemon.ctr("images", "pull", "--plain-http", busybox)
    return busybox


def test_version_tells_ours(daemon: Daemon) -> None:
    out = daemon.ctr("version").stdout
    assert re.search(r"Server:\s+Version:\s+\S*portside", out), out


def test_pull_stores_image_content_and_snapshots(daemon: Daemon, image: str) -> None:
    assert image in daemon.ctr("images", "ls", "-q").stdout.split()
    assert len(daemon.ctr("content", "ls", "-q").stdout.split()) == 3
    snapshots = daemon.ctr("snapshots", "ls").stdout
    assert snapshots.count("Committed") == 1
    assert "complete (2/2)" in daemon.ctr("images", "check").stdout


def test_pull_again_is_quick_and_harmless(daemon: Daemon, image: str) -> None:
    daemon.ctr("images", "pull", "--plain-http", image)


def test_run_gives_output_and_status(daemon: Daemon, image: str) -> None:
    result = daemon.ctr("run", "--rm", image, "r1", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (result.stdout, result.stderr.splitlines()[0], result.returncode) == ("out\n", "err", 7)
    assert "r1" not in daemon.ctr("containers", "ls", "-q").stdout.split()


def test_run_passes_standard_input(daemon: Daemon, image: str) -> None:
    """The input has ended long before the container starts, and its end must not be lost."""
    for _ in range(5):
        result = daemon.ctr("run", "--rm", image, "r2", "cat", input="through the container\n")
        assert result.stdout == "through the container\n"


def test_run_with_environment_and_cwd(daemon: Daemon, image: str) -> None:
    command = "echo $GREETING; pwd"
    out = daemon.ctr("run", "--rm", "--env", "GREETING=hello", "--cwd", "/tmp", image, "r3", "sh", "-c", command).stdout
    assert out.split() == ["hello", "/tmp"]


def test_run_with_terminal(daemon: Daemon, image: str) -> None:
    command = ["ctr", "-a", str(daemon.socket), "run", "--rm", "-t", image, "r4", "sh", "-c", "tty; stty size; exit 3"]
    output, status = _in_terminal(command)
    assert "/dev/pts/0" in output
    assert status == 3


def test_detached_life(daemon: Daemon, image: str) -> None:
    daemon.ctr("run", "-d", image, "d1", "sleep", "1000")
    row = next(line for line in daemon.ctr("tasks", "ls").stdout.splitlines() if line.startswith("d1"))
    assert row.split()[2] == "RUNNING"
    assert daemon.ctr("tasks", "exec", "--exec-id", "e1", "d1", "echo", "from exec").stdout == "from exec\n"
    assert daemon.ctr("tasks", "exec", "--exec-id", "e2", "d1", "sh", "-c", "exit 9", check=False).returncode == 9
    pids = [line.split()[0] for line in daemon.ctr("tasks", "ps", "d1").stdout.splitlines()[1:]]
    assert row.split()[1] in pids
    daemon.ctr("tasks", "pause", "d1")
    assert "PAUSED" in daemon.ctr("tasks", "ls").stdout
    daemon.ctr("tasks", "resume", "d1")
    assert "memory" in daemon.ctr("tasks", "metrics", "d1").stdout
    assert daemon.ctr("tasks", "metrics", "--format", "json", "d1").stdout.startswith("{")
    refused = daemon.ctr("containers", "rm", "d1", check=False)
    assert refused.returncode
    daemon.ctr("tasks", "kill", "-s", "SIGKILL", "d1")
    wait_for(lambda: "STOPPED" in daemon.ctr("tasks", "ls").stdout, "the task to stop")
    daemon.ctr("tasks", "rm", "d1", check=False)
    daemon.ctr("containers", "rm", "d1")
    assert "d1" not in daemon.ctr("containers", "ls", "-q").stdout.split()


def test_exec_with_terminal(daemon: Daemon, image: str) -> None:
    daemon.ctr("run", "-d", image, "d2", "sleep", "1000")
    command = ["ctr", "-a", str(daemon.socket), "tasks", "exec", "-t", "--exec-id", "t1", "d2", "sh", "-c", "tty"]
    assert "/dev/pts/" in _in_terminal(command)[0]
    daemon.ctr("tasks", "rm", "-f", "d2", check=False)
    daemon.ctr("containers", "rm", "d2")


def test_container_info_is_the_spec_that_was_sent(daemon: Daemon, image: str) -> None:
    daemon.ctr("containers", "create", "--label", "color=blue", image, "c1", "sleep", "1")
    info = json.loads(daemon.ctr("containers", "info", "c1").stdout)
    assert info["Labels"]["color"] == "blue"
    assert info["Spec"]["process"]["args"] == ["sleep", "1"]
    daemon.ctr("containers", "label", "c1", "color=red")
    assert json.loads(daemon.ctr("containers", "info", "c1").stdout)["Labels"]["color"] == "red"
    daemon.ctr("containers", "rm", "c1")


def test_container_labels_filter(daemon: Daemon, image: str) -> None:
    daemon.ctr("containers", "create", "--label", "kind=x", image, "f1", "true")
    daemon.ctr("containers", "create", "--label", "kind=y", image, "f2", "true")
    assert daemon.ctr("containers", "ls", "-q", "labels.kind==y").stdout.split() == ["f2"]
    daemon.ctr("containers", "rm", "f1", "f2")


def test_push_pull_round_trip(daemon: Daemon, image: str, registry: str) -> None:
    copy = f"{registry}/test/copy:v1"
    daemon.ctr("images", "tag", image, copy)
    daemon.ctr("images", "push", "--plain-http", copy)
    daemon.ctr("images", "rm", copy)
    daemon.ctr("images", "pull", "--plain-http", copy)
    rows = {line.split()[0]: line.split()[2] for line in daemon.ctr("images", "ls").stdout.splitlines()[1:]}
    assert rows[copy] == rows[image]


def test_export_import(daemon: Daemon, image: str, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    daemon.ctr("images", "export", str(archive), image)
    daemon.ctr("-n", "elsewhere", "images", "import", str(archive))
    assert image in daemon.ctr("-n", "elsewhere", "images", "ls", "-q").stdout.split()
    assert daemon.ctr("-n", "elsewhere", "run", "--rm", image, "x1", "echo", "imported").stdout == "imported\n"


def test_content_fetch_and_get(daemon: Daemon, image: str) -> None:
    digest = next(line.split()[2] for line in daemon.ctr("images", "ls").stdout.splitlines() if line.startswith(image))
    manifest = json.loads(daemon.ctr("content", "get", digest).stdout)
    assert manifest["layers"]
    labels = daemon.ctr("content", "ls").stdout
    assert "containerd.io/gc.ref.content.config" in labels
    assert "containerd.io/distribution.source" in labels


def test_content_ingest(daemon: Daemon) -> None:
    data = "some content\n"
    digest = images.sha256(data.encode())
    daemon.ctr("content", "ingest", "--expected-digest", digest, "by-hand", input=data)
    assert daemon.ctr("content", "get", digest).stdout == data
    daemon.ctr("content", "rm", digest)
    assert digest not in daemon.ctr("content", "ls", "-q").stdout


def test_snapshots(daemon: Daemon, image: str, tmp_path: Path) -> None:
    rows = [line.split() for line in daemon.ctr("snapshots", "ls").stdout.splitlines()[1:]]
    parent = next(row[0] for row in rows if row[-1] == "Committed")
    daemon.ctr("snapshots", "prepare", "s1", parent)
    assert re.search(rf"{re.escape(parent)}\n\s*\\_ s1", daemon.ctr("snapshots", "tree").stdout)
    assert "s1" in daemon.ctr("snapshots", "usage").stdout
    mounts = daemon.ctr("snapshots", "mounts", str(tmp_path), "s1").stdout
    assert mounts.startswith("mount -t overlay")
    daemon.ctr("snapshots", "commit", "s2", "s1")
    assert "Committed" in daemon.ctr("snapshots", "info", "s2").stdout
    refused = daemon.ctr("snapshots", "rm", parent, check=False)
    assert refused.returncode
    assert "failed precondition" in refused.stderr
    daemon.ctr("snapshots", "rm", "s2")


def test_leases(daemon: Daemon) -> None:
    daemon.ctr("leases", "create", "--id", "l1", "-x", "1h", "owner=me")
    row = next(line for line in daemon.ctr("leases", "ls").stdout.splitlines() if line.startswith("l1"))
    assert "owner=me" in row
    assert "containerd.io/gc.expire" in row
    daemon.ctr("leases", "rm", "l1")
    assert "l1" not in daemon.ctr("leases", "ls", "-q").stdout


def test_namespaces(daemon: Daemon) -> None:
    daemon.ctr("namespaces", "create", "n1", "team=a")
    assert re.search(r"n1\s+team=a", daemon.ctr("namespaces", "ls").stdout)
    daemon.ctr("namespaces", "label", "n1", "team=b")
    assert re.search(r"n1\s+team=b", daemon.ctr("namespaces", "ls").stdout)
    daemon.ctr("namespaces", "rm", "n1")
    assert "n1" not in daemon.ctr("namespaces", "ls", "-q").stdout.split()


def test_namespace_in_use_is_refused(daemon: Daemon, image: str) -> None:
    refused = daemon.ctr("namespaces", "rm", "default", check=False)
    assert "is not empty" in refused.stderr + refused.stdout


def test_plugins(daemon: Daemon) -> None:
    rows = [line.split() for line in daemon.ctr("plugins", "ls").stdout.splitlines()[1:]]
    state = {(row[0], row[1]): row[-1] for row in rows}
    assert state["io.containerd.snapshotter.v1", "overlayfs"] == "ok"
    assert state["io.containerd.content.v1", "content"] == "ok"
    assert state["io.containerd.runtime.v2", "task"] == "ok"


def test_events_tell_a_life_in_order(daemon: Daemon, image: str, tmp_path: Path) -> None:
    log = tmp_path / "events"
    with log.open("wb") as out:
        watcher = subprocess.Popen(["ctr", "-a", str(daemon.socket), "events"], stdout=out)
    try:
        # A subscriber has no sign of being ready: repeat something harmless until it is seen.
        wait_for(lambda: _touch(daemon) and log.stat().st_size > 0, "the subscription")
        daemon.ctr("run", "--rm", image, "ev", "true")
        wait_for(lambda: b"/containers/delete" in log.read_bytes().split(b"/containers/create")[-1], "the events")
    finally:
        peers.stop(watcher)
    topics = re.findall(r" (/[a-z]+/[a-z-]+) \{.*\"ev\"", log.read_text())
    life = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert [topic for topic in topics if topic in life] == life
    assert topics.index("/containers/create") < topics.index("/tasks/create")


def test_external_runtime(daemon: Daemon, image: str) -> None:
    peers.need_program("runc")
    out = daemon.ctr("run", "--rm", "--runc-binary", "/usr/sbin/runc", image, "runc1", "echo", "by runc").stdout
    assert out == "by runc\n"


def test_large_output_is_whole(daemon: Daemon, image: str) -> None:
    out = daemon.ctr("run", "--rm", image, "big", "sh", "-c", "yes 0123456789abcdef | head -c 8000000").stdout
    assert len(out) == 8_000_000


def _touch(daemon: Daemon) -> bool:
    daemon.ctr("namespaces", "label", "default", f"touched={time.monotonic_ns()}")
    return True


def _in_terminal(command: list[str]) -> tuple[str, int]:
    """Run under a pseudo-terminal; what it showed, and its status."""
    script = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    result = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, timeout=60 * peers.SLOWNESS, env=os.environ,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return result.stdout.decode(), result.returncode
