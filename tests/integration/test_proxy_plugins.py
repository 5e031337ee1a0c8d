"""Our daemon with parts that other processes serve: snapshots, blobs and layers, all of them or one that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import images, leftovers
from tests.support.peers import Daemon, wait_for
from tests.support.plugins import served

ALL = """version = 2
disabled_plugins = ["io.containerd.content.v1.content"]
[plugins."io.containerd.service.v1.diff-service"]
  default = ["layers"]
[proxy_plugins]
  [proxy_plugins.elsewhere]
    type = "snapshot"
    address = "{snapshot}"
  [proxy_plugins.blobs]
    type = "content"
    address = "{content}"
  [proxy_plugins.layers]
    type = "diff"
    address = "{diff}"
"""
ONE = """version = 2
[proxy_plugins.elsewhere]
  type = "snapshot"
  address = "{snapshot}"
[timeouts]
  "io.portside.timeout.proxy.call" = "1s"
  "io.portside.timeout.proxy.work" = "1s"
"""


def test_everything_is_elsewhere(tmp_path: Path, busybox: str) -> None:
    with ExitStack() as scope:
        socket = str(tmp_path / "d/state/portside.sock")
        snapshots = scope.enter_context(served(tmp_path / "s", "snapshot"))
        blobs = scope.enter_context(served(tmp_path / "c", "content"))
        layers = scope.enter_context(served(tmp_path / "l", "diff", "--containerd", socket))
        (tmp_path / "d").mkdir()
        addresses = {"snapshot": snapshots.socket, "content": blobs.socket, "diff": layers.socket}
        daemon = Daemon(tmp_path / "d", ALL.format(**addresses))
        scope.callback(daemon.stop)
        daemon.start()
        daemon.portside("pull", "-q", "--snapshotter", "elsewhere", busybox)
        ran = daemon.portside("run", "--rm", "--snapshotter", "elsewhere", busybox, "cat", "/etc/group")
        assert "root:x:0:" in ran.stdout
        daemon.kill()
        daemon.start()
        daemon.ctr("content", "fetch", "--plain-http", busybox)
        daemon.ctr("images", "export", str(tmp_path / "archive.tar"), busybox)
        daemon.portside("rmi", busybox)
        for place in (tmp_path / "s/root/snapshots", tmp_path / "c/root/blobs/sha256"):
            wait_for(lambda place=place: not os.listdir(place), f"{place} to be empty")
        assert not (daemon.root / "io.containerd.content.v1.content").exists()
    assert not [path for path in leftovers.mounts() if path.startswith(str(tmp_path))]


def test_two_content_stores_are_one_too_many(tmp_path: Path) -> None:
    with served(tmp_path / "c", "content") as blobs:
        config = ALL.format(snapshot="/none", content=blobs.socket, diff="/none")
        daemon = Daemon(tmp_path, config.replace('["io.containerd.content.v1.content"]', "[]"))
        with pytest.raises(pytest.fail.Exception, match="there can be one; disable the others"):
            daemon.start()


def test_one_that_hangs_and_one_that_dies(tmp_path: Path, busybox: str) -> None:
    with served(tmp_path / "s", "snapshot") as peer:
        daemon = Daemon(tmp_path, ONE.format(snapshot=peer.socket))
        daemon.start()
        try:
            run = ("run", "--rm", "--snapshotter", "elsewhere", busybox, "echo", "ran")
            assert daemon.portside(*run).stdout == "ran\n"
            peer.process.send_signal(signal.SIGSTOP)
            assert "no answer within 1 s" in daemon.portside(*run, check=False).stderr
            assert daemon.portside("run", "--rm", busybox, "echo", "here").stdout == "here\n"
            peer.process.send_signal(signal.SIGCONT)
            assert daemon.portside(*run).stdout == "ran\n"
            peer.process.kill()
            peer.process.wait()
            assert "nobody serves there" in daemon.portside(*run, check=False).stderr
            with served(tmp_path / "s", "snapshot"):
                assert daemon.portside(*run).stdout == "ran\n"
                daemon.portside("rmi", busybox)
                wait_for(lambda: not os.listdir(tmp_path / "s/root/snapshots"), "the snapshots to go")
        finally:
            daemon.stop()


@pytest.mark.parametrize("round", range(60 if os.environ.get("PORTSIDE_SOAK") else 2))
def test_the_daemon_is_killed_while_it_unpacks(tmp_path: Path, registry: str, round: int) -> None:
    """Wherever that is, the next daemon and a collection leave there what is referenced and nothing else."""
    parts = [images.tar_layer(images.busybox_files())]
    parts += [images.tar_layer({f"file{n}": bytes([round, n]) * 500_000}) for n in range(5)]
    name = images.push(registry, f"test/many{round}", "latest", images.make_image(parts))
    places = tmp_path / "s/root/snapshots"
    with served(tmp_path / "s", "snapshot") as peer:
        daemon = Daemon(tmp_path, ONE.format(snapshot=peer.socket))
        daemon.start()
        try:
            command = [sys.executable, "-m", "portside.cli.main", "-a", str(daemon.socket), "pull", "-q"]
            pull = subprocess.Popen(
                [*command, "--snapshotter", "elsewhere", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait_for(lambda: len(os.listdir(places)) > round % 6, "snapshots to appear")
            daemon.kill()
            pull.wait()
            daemon.start()
            for lease in daemon.ctr("leases", "ls", "-q").stdout.split():
                daemon.ctr("leases", "rm", "--sync", lease)
            daemon.portside("pull", "-q", "--snapshotter", "elsewhere", name)
            assert daemon.portside("run", "--rm", "--snapshotter", "elsewhere", name, "echo", "ran").stdout == "ran\n"
            wait_for(lambda: len(os.listdir(places)) == len(parts), "what the crash left to go")
            daemon.portside("rmi", name)
            wait_for(lambda: not os.listdir(places), "the snapshots to go")
        finally:
            daemon.stop()
