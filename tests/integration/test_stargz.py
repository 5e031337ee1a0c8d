"""The stargz snapshotter as a proxy plugin of ours: eStargz images pulled lazily from a real registry, run, removed."""

from __future__ import annotations

import json
import os
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.peers import Daemon, need_program, run, wait_for
from tests.support.plugins import Peer, stargz

CONFIG = """version = 2
[proxy_plugins.stargz]
  type = "snapshot"
  address = "{address}"
  capabilities = ["lazy"]
  [proxy_plugins.stargz.exports]
    root = "{root}"
    enable_remote_snapshot_annotations = "true"
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with stargz(tmp_path_factory.mktemp("stargz")) as peer:
        yield peer


@pytest.fixture(scope="module")
def daemon(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = CONFIG.format(address=peer.socket, root=peer.socket.parent / "root")
    daemon = Daemon(tmp_path_factory.mktemp("d"), config)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def estargz(daemon: Daemon, registry: str, busybox: str) -> str:
    """The busybox image as stargz' own ctr makes it lazy, over our content store and transferred by us."""
    need_program("ctr-remote")
    name = f"{registry}/test/estargz:latest"
    daemon.ctr("images", "pull", "--plain-http", busybox)
    run("ctr-remote", "-a", str(daemon.socket), "images", "convert", "--estargz", "--oci", busybox, name)
    daemon.ctr("images", "push", "--plain-http", name)
    daemon.ctr("images", "rm", "--sync", name, busybox)
    return name


def layers_of(registry: str, name: str) -> list[str]:
    request = urllib.request.Request(f"http://{registry}/v2/{name}/manifests/latest")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [layer["digest"] for layer in json.load(answer)["layers"]]


def mounted(peer: Peer) -> list[str]:
    return [path for path in leftovers.mounts() if path.startswith(str(peer.socket.parent))]


def test_introspection_shows_it(daemon: Daemon, peer: Peer) -> None:
    text = daemon.ctr("plugins", "ls", "-d", "id==stargz").stdout
    assert "io.containerd.snapshotter.v1" in text and "lazy" in text
    assert str(peer.socket) in text and "enable_remote_snapshot_annotations" in text


def test_pulled_lazily_run_and_removed(daemon: Daemon, peer: Peer, registry: str, estargz: str) -> None:
    """No layer is fetched, yet the image runs; nothing is left in the end."""
    daemon.portside("pull", "-q", "--snapshotter", "stargz", estargz)
    (layer,) = layers_of(registry, "test/estargz")
    blobs = daemon.root / "io.containerd.content.v1.content/blobs/sha256"
    assert layer.removeprefix("sha256:") not in os.listdir(blobs)
    assert len(mounted(peer)) == 1
    info = json.loads(daemon.ctr("snapshots", "--snapshotter", "stargz", "info", _chain(daemon)).stdout)
    assert info["Kind"] == "Committed"
    assert info["Labels"]["containerd.io/snapshot/cri.layer-digest"] == layer
    assert info["Labels"]["containerd.io/snapshot/cri.image-ref"] == estargz
    assert info["Labels"]["containerd.io/snapshot/remote"] == "remote snapshot"
    command = ["sh", "-c", "echo more >/etc/more; cat /etc/passwd /etc/more"]
    ran = daemon.portside("run", "--rm", "--snapshotter", "stargz", estargz, *command).stdout
    assert "root:x:0:0" in ran and ran.endswith("more\n")
    ran = daemon.ctr("run", "--rm", "--snapshotter", "stargz", estargz, f"lazy-{secrets.token_hex(4)}", "echo", "hi")
    assert ran.stdout == "hi\n"
    daemon.portside("rmi", estargz)
    assert daemon.ctr("snapshots", "--snapshotter", "stargz", "ls").stdout.count("\n") == 1
    wait_for(lambda: not mounted(peer), "the layer to be unmounted")
    places = peer.socket.parent / "root/snapshotter/snapshots"
    wait_for(lambda: not os.listdir(places), "the snapshots of stargz to go")


def test_an_ordinary_image_is_unpacked_into_it(daemon: Daemon, peer: Peer, busybox: str) -> None:
    daemon.portside("pull", "-q", "--snapshotter", "stargz", busybox)
    ran = daemon.portside("run", "--rm", "--snapshotter", "stargz", busybox, "echo", "plain")
    assert ran.stdout == "plain\n"
    daemon.portside("rmi", busybox)
    wait_for(lambda: not os.listdir(peer.socket.parent / "root/snapshotter/snapshots"), "its snapshots to go")
    assert not mounted(peer)


def test_two_namespaces_share_a_layer(daemon: Daemon, peer: Peer, estargz: str) -> None:
    """It is one in stargz, and goes with the last."""
    for namespace in ("default", "other"):
        daemon.portside("-n", namespace, "pull", "-q", "--snapshotter", "stargz", estargz)
    wait_for(lambda: len(mounted(peer)) == 1, "what stargz mounts twice to go")
    daemon.portside("rmi", estargz)
    ran = daemon.portside("-n", "other", "run", "--rm", "--snapshotter", "stargz", estargz, "cat", "/etc/group")
    assert "root:x:0:" in ran.stdout
    assert len(mounted(peer)) == 1
    daemon.portside("-n", "other", "rmi", estargz)
    wait_for(lambda: not mounted(peer), "the layer to be unmounted")


def test_the_lazy_pull_of_ctr_remote(daemon: Daemon, peer: Peer, estargz: str) -> None:
    """Labels of another client's making go the same way."""
    client = ("ctr-remote", "-a", str(daemon.socket))
    run(*client, "images", "rpull", "--plain-http", "--snapshotter", "stargz", estargz)
    assert len(mounted(peer)) == 1
    ran = run(
        *client, "run", "--rm", "--snapshotter", "stargz", estargz, f"lazy-{secrets.token_hex(4)}", "cat", "/etc/passwd"
    )
    assert "root:x:0:0" in ran.stdout
    run(*client, "images", "rm", "--sync", estargz)
    wait_for(lambda: not mounted(peer), "the layer to be unmounted")


def test_the_daemon_is_killed_and_knows_the_layers_again(daemon: Daemon, peer: Peer, estargz: str) -> None:
    daemon.portside("pull", "-q", "--snapshotter", "stargz", estargz)
    daemon.kill()
    daemon.start()
    ran = daemon.portside("run", "--rm", "--snapshotter", "stargz", estargz, "echo", "still here")
    assert ran.stdout == "still here\n"
    daemon.portside("rmi", estargz)
    wait_for(lambda: not mounted(peer), "the layer to be unmounted")


def _chain(daemon: Daemon) -> str:
    """The one committed snapshot."""
    (line,) = daemon.ctr("snapshots", "--snapshotter", "stargz", "ls").stdout.splitlines()[1:]
    return line.split()[0]


def test_its_layers_are_not_here_to_be_sent(daemon: Daemon, peer: Peer, registry: str, estargz: str) -> None:
    daemon.portside("pull", "-q", "--snapshotter", "stargz", estargz)
    sent = daemon.portside("push", "-q", estargz, check=False)
    assert sent.returncode and f"image {estargz}: not all of it is here" in sent.stderr
    daemon.portside("rmi", estargz)
    wait_for(lambda: not mounted(peer), "the layer to be unmounted")


def test_stargz_is_killed_and_comes_back(tmp_path: Path, registry: str, estargz: str) -> None:
    """What it had mounted is dead meanwhile; it mounts it again when it starts."""
    with stargz(tmp_path / "s") as first:
        daemon = Daemon(tmp_path, CONFIG.format(address=first.socket, root=first.socket.parent / "root"))
        daemon.start()
        try:
            daemon.portside("pull", "-q", "--snapshotter", "stargz", estargz)
            first.process.kill()
            first.process.wait()
            command = ("run", "--rm", "--snapshotter", "stargz", estargz, "cat", "/etc/passwd")
            refused = daemon.portside(*command, check=False)
            assert refused.returncode and "nobody serves there" in refused.stderr
            first.socket.unlink()
            with stargz(tmp_path / "s") as second:
                assert "root:x:0:0" in daemon.portside(*command).stdout
                daemon.portside("rmi", estargz)
                wait_for(lambda: not mounted(second), "the layer to be unmounted")
        finally:
            daemon.stop()
