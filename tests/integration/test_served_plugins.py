"""Our snapshotter, content store and differ as proxy plugins of Debian's containerd (portside serve-plugin)."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.containerd import NEWER, containerd
from tests.support.peers import run, wait_for
from tests.support.plugins import served

PROXY = """
[proxy_plugins.ours]
  type = "{type}"
  address = "{address}"
"""


def ctr(socket: Path, *words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return run("ctr", "-a", str(socket), *words, **kwargs)


@pytest.fixture
def id() -> str:
    return f"served-{secrets.token_hex(4)}"


@pytest.mark.parametrize(
    ("snapshotter", "program"), [("overlayfs", "containerd"), ("native", "containerd"), ("overlayfs", NEWER)]
)
def test_a_snapshotter(tmp_path: Path, busybox: str, id: str, snapshotter: str, program: str) -> None:
    with (
        served(tmp_path / "p", "snapshot", "--snapshotter", snapshotter) as ours,
        containerd(tmp_path / "c", PROXY.format(type="snapshot", address=ours.socket), program=program) as socket,
    ):
        assert "ours" in ctr(socket, "plugins", "ls", "type==io.containerd.snapshotter.v1").stdout
        ctr(socket, "images", "pull", "--plain-http", "--snapshotter", "ours", busybox)
        places = tmp_path / "p/root/snapshots"
        (layer,) = os.listdir(places)
        assert (places / layer / "fs/bin/busybox").exists()
        ran = ctr(
            socket, "run", "--rm", "--snapshotter", "ours", busybox, id, "sh", "-c", "echo new >/f; cat /f"
        ).stdout
        assert ran == "new\n"
        usage = ctr(socket, "snapshots", "--snapshotter", "ours", "usage").stdout
        assert "sha256:" in usage
        ctr(socket, "images", "rm", "--sync", busybox)
        wait_for(lambda: not os.listdir(places), "the snapshots to go")
    assert not [path for path in leftovers.mounts() if path.startswith(str(tmp_path))]


def test_a_snapshotter_that_was_gone_comes_back(tmp_path: Path, busybox: str, id: str) -> None:
    with (
        served(tmp_path / "p", "snapshot") as ours,
        containerd(tmp_path / "c", PROXY.format(type="snapshot", address=ours.socket)) as socket,
    ):
        ctr(socket, "images", "pull", "--plain-http", "--snapshotter", "ours", busybox)
        ours.process.kill()
        ours.process.wait()
        with served(tmp_path / "p", "snapshot"):
            # Go's clients take a while to try again.
            info = ("snapshots", "--snapshotter", "ours", "usage")
            wait_for(lambda: ctr(socket, *info, check=False).returncode == 0, "containerd to connect again")
            ran = ctr(socket, "run", "--rm", "--snapshotter", "ours", busybox, id, "echo", "again").stdout
            assert ran == "again\n"


@pytest.mark.parametrize("program", ["containerd", NEWER])
def test_a_content_store(tmp_path: Path, busybox: str, id: str, program: str) -> None:
    with served(tmp_path / "p", "content") as ours:
        config = PROXY.format(type="content", address=ours.socket)
        with containerd(tmp_path / "c", config, ("io.containerd.content.v1.content",), program) as socket:
            ctr(socket, "images", "pull", "--plain-http", busybox)
            blobs = tmp_path / "p/root/blobs/sha256"
            digests = ctr(socket, "content", "ls", "-q").stdout.split()
            assert sorted(os.listdir(blobs)) == sorted(digest.removeprefix("sha256:") for digest in digests)
            assert not (tmp_path / "c/root/io.containerd.content.v1.content").exists()
            assert ctr(socket, "run", "--rm", busybox, id, "echo", "here").stdout == "here\n"
            text = ctr(socket, "content", "get", digests[0], text=False).stdout
            assert text == (blobs / digests[0].removeprefix("sha256:")).read_bytes()
            ctr(socket, "images", "rm", "--sync", busybox)
            wait_for(lambda: not os.listdir(blobs), "the blobs to go")


def test_a_differ(tmp_path: Path, busybox: str, id: str) -> None:
    """containerd 1.6 knows no differs as proxy plugins."""
    with served(tmp_path / "p", "diff", "--containerd", str(tmp_path / "c/c.sock")) as ours:
        config = PROXY.format(type="diff", address=ours.socket)
        config += '[plugins."io.containerd.service.v1.diff-service"]\n  default = ["ours"]\n'
        with containerd(tmp_path / "c", config, program=NEWER) as socket:
            ctr(socket, "images", "pull", "--plain-http", busybox)
            assert ctr(socket, "run", "--rm", busybox, id, "echo", "unpacked").stdout == "unpacked\n"
            ctr(socket, "run", "-d", busybox, id, "sh", "-c", "echo more >/more; sleep 60")
            try:
                digest = ctr(socket, "snapshots", "diff", "--keep", id, text=False).stdout
                assert digest[:2] == b"\x1f\x8b"
            finally:
                ctr(socket, "tasks", "rm", "-f", id)
                ctr(socket, "containers", "rm", id)
