"""The roots of real containerds, stopped, taken over: their images run here, and their containers start again."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import stacks
from bench.stacks import Stack
from tests.support.peers import Daemon, need_program, need_root, run, wait_for

pytestmark = pytest.mark.root
FORKY = Path(os.environ.get("PORTSIDE_CACHE", "/var/cache/portside")) / "forky"
BOX = f"migrated-{secrets.token_hex(4)}"


def migrate(source: Path, root: Path, *options: str, check: bool = True):
    command = [sys.executable, "-m", "portside.cli.main", "migrate", "--from", str(source / "root")]
    return run(*command, "--from-state", str(source / "state"), "--root", str(root), *options, check=check)


def fill(stack: Stack, image: str) -> None:
    """Two namespaces, an image in both, two containers that have ended (one had changed its files), a lease."""
    stack.call("images", "pull", "--plain-http", image)
    stack.call("images", "label", image, "color=blue")
    stack.call("namespaces", "create", "other", "team=a")
    stack.call("-n", "other", "images", "pull", "--plain-http", image)
    script = "echo written >/root/note; rm /etc/group; exec sleep 1000"
    stack.call("run", "-d", "--null-io", "--label", "shape=round", image, BOX, "sh", "-c", script)
    stack.call("leases", "create", "--id", "mine", "why=because")
    stack.call("snapshots", "prepare", "scratch")


def end(stack: Stack) -> None:
    stack.call("tasks", "kill", "-s", "KILL", BOX)
    wait_for(lambda: "STOPPED" in stack.call("tasks", "ls").stdout, "the task to end")
    stack.call("tasks", "rm", BOX)


def written(stack: Stack) -> bool:
    with contextlib.suppress(RuntimeError):
        stack.call("tasks", "exec", "--exec-id", f"e{secrets.token_hex(4)}", BOX, "cat", "/root/note")
        return True
    return False


@pytest.fixture(scope="module", params=["1.6", "2.1"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, busybox: str) -> Iterator[Path]:
    """A directory with ``root`` and ``state`` of a containerd that was used and stopped."""
    need_root()
    need_program("containerd", "ctr", "containerd-shim-runc-v2")
    directory = tmp_path_factory.mktemp("source") / "c"
    if request.param == "1.6":
        stack, place = stacks.debian(directory), directory
    else:
        if not (FORKY / ".complete").exists():
            pytest.skip("needs the newer containerd of script/peers")
        name = f"migrate-{secrets.token_hex(4)}"
        stack, place = stacks.newer(FORKY, place=name, keep=True), FORKY / "tmp" / name
    try:
        with stack as running:
            fill(running, busybox)
            try:
                wait_for(lambda: written(running), "the container to write")
                refused = migrate(place, directory / "never", check=False)
            finally:
                end(running)
        assert refused.returncode == 1 and "another process has it open; stop containerd first" in refused.stderr
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Not started."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("how", ["linked", "copied"])
def test_what_it_had_works_here(source: Path, daemon: Daemon, busybox: str, how: str) -> None:
    plan = json.loads(migrate(source, daemon.root, "--dry-run", "--json").stdout)
    assert not plan["done"] and not daemon.root.exists()
    done = json.loads(migrate(source, daemon.root, "--json", *(["--copy"] if how == "copied" else [])).stdout)
    assert done["taken"] == plan["taken"] and done["leftOut"] == [] and done["notes"] == []
    assert done["taken"]["images"] == 2 and done["taken"]["containers"] == 1 and done["taken"]["namespaces"] == 2
    assert done["linked"] + done["copied"] == done["blobs"] == 3
    assert done["copied"] == (3 if how == "copied" else 0) or os.stat(source).st_dev != os.stat(daemon.root).st_dev

    daemon.start()
    assert busybox in daemon.portside("images").stdout
    assert busybox in daemon.portside("-n", "other", "images").stdout
    assert daemon.portside("run", "--rm", busybox, "echo", "here").stdout == "here\n"
    assert "color=blue" in daemon.ctr("images", "ls").stdout
    assert "team=a" in daemon.ctr("namespaces", "ls").stdout
    assert "why=because" in daemon.ctr("leases", "ls").stdout
    assert "scratch" in daemon.ctr("snapshots", "ls").stdout
    info = json.loads(daemon.ctr("containers", "info", BOX).stdout)
    assert info["Image"] == busybox and info["Labels"]["shape"] == "round" and info["SnapshotKey"] == BOX

    daemon.ctr("tasks", "start", "-d", "--null-io", BOX)
    look = ("tasks", "exec", "--exec-id", "look", BOX, "sh", "-c", "cat /root/note; test -e /etc/group || echo gone")
    assert daemon.ctr(*look).stdout == "written\ngone\n"
    daemon.ctr("tasks", "kill", "-s", "KILL", BOX)
    wait_for(lambda: "STOPPED" in daemon.ctr("tasks", "ls").stdout, "the task to end")
    daemon.ctr("tasks", "rm", BOX)
    daemon.ctr("containers", "rm", BOX)


def test_again_and_refusals(source: Path, daemon: Daemon, tmp_path: Path) -> None:
    first = json.loads(migrate(source, daemon.root, "--json").stdout)
    again = json.loads(migrate(source, daemon.root, "--json").stdout)
    assert again["taken"] == {} and again["blobs"] == 0 and again["there"] >= first["taken"]["content"]

    daemon.start()
    assert daemon.process is not None
    busy = migrate(source, daemon.root, check=False)
    assert busy.returncode == 1 and f"owned by process {daemon.process.pid} (" in busy.stderr
    own = migrate(source, source / "root", check=False)
    assert own.returncode == 1 and "into itself" in own.stderr
    nothing = migrate(tmp_path, tmp_path / "x", check=False)
    assert nothing.returncode == 1 and "not the root of a containerd" in nothing.stderr


def test_a_container_that_still_runs(source: Path, tmp_path: Path) -> None:
    """A mount of its root is enough to know."""
    rootfs = source / "state/io.containerd.runtime.v2.task/default" / BOX / "rootfs"
    rootfs.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "none", str(rootfs))
    try:
        refused = migrate(source, tmp_path / "x", check=False)
        assert refused.returncode == 1 and "not stopped" in refused.stderr and str(rootfs) in refused.stderr
    finally:
        run("umount", str(rootfs))
        rootfs.rmdir()
