"""Archives between us and Debian's ctr and skopeo, in both directions; what came in runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import portside
from portside.sdk import SyncClient
from tests.support.containerd import containerd
from tests.support.peers import Daemon, need_program, run

pytestmark = pytest.mark.root


def check(c: SyncClient, name: str) -> None:
    with c.run(name, ["echo", "it runs"]) as task:
        assert task.output() == b"it runs\n"


@pytest.fixture
def c(daemon: Daemon, request: pytest.FixtureRequest) -> SyncClient:
    door = portside.connect_sync(str(daemon.socket), namespace=re.sub(r"[^a-z]+", "-", request.node.name).strip("-"))
    client = door.__enter__()
    request.addfinalizer(lambda: door.__exit__(None, None, None))
    return client


def test_from_ctr(c: SyncClient, daemon: Daemon, busybox: str, tmp_path: Path) -> None:
    with containerd(tmp_path / "c") as socket:
        run("ctr", "-a", str(socket), "images", "pull", "--plain-http", busybox)
        run("ctr", "-a", str(socket), "images", "export", str(tmp_path / "a.tar"), busybox)
    assert [image.name for image in c.import_images(tmp_path / "a.tar")] == [busybox]
    check(c, busybox)


def test_to_ctr(c: SyncClient, busybox: str, tmp_path: Path) -> None:
    image = c.pull(busybox)
    c.export_images(image, tmp_path / "a.tar")
    with containerd(tmp_path / "c") as socket:
        run("ctr", "-a", str(socket), "images", "import", str(tmp_path / "a.tar"))
        listed = run("ctr", "-a", str(socket), "images", "ls").stdout
        assert busybox in listed
        assert image.target.digest in listed
        ran = run("ctr", "-a", str(socket), "run", "--rm", busybox, "i1", "echo", "it runs")
        assert ran.stdout == "it runs\n"


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_with_skopeo(c: SyncClient, busybox: str, tmp_path: Path, form: str) -> None:
    need_program("skopeo")
    image = c.pull(busybox)
    c.export_images(image, tmp_path / "ours.tar")
    run("skopeo", "inspect", f"{form}:{tmp_path}/ours.tar")
    name = "example.org/theirs:v1"
    target = f"{form}:{tmp_path}/theirs.tar:{name}"
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{busybox}", target)
    assert [found.name for found in c.import_images(tmp_path / "theirs.tar")] == [name]
    check(c, name)


def test_unmodified_ctr_on_our_daemon(daemon: Daemon, busybox: str, tmp_path: Path) -> None:
    daemon.ctr("images", "pull", "--plain-http", busybox)
    daemon.ctr("images", "export", str(tmp_path / "a.tar"), busybox)
    with portside.connect_sync(str(daemon.socket), namespace="imported") as c:
        assert [image.name for image in c.import_images(tmp_path / "a.tar")] == [busybox]
        check(c, busybox)
