"""Programs that a configuration names: image verifiers before a pull, stream processors on the way of a layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.peers import Daemon

CONFIG = """version = 2
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "{bin}"
  max_verifiers = 2
  per_verifier_timeout = "2s"
[stream_processors."example.scrambled"]
  accepts = ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]
  returns = "application/vnd.oci.image.layer.v1.tar+gzip"
  path = "sh"
  args = ["-c", '''[ "$KEY" = good ] || {{ echo no key for it >&2; exit 1; }}
    tr "\\000-\\377" "\\200-\\377\\000-\\177"''']
  env = ["KEY={key}"]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path


@pytest.fixture
def daemon(place: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    key = getattr(request, "param", "good")
    daemon = Daemon(place, CONFIG.format(bin=place / "bin", key=key))
    daemon.start()
    yield daemon
    daemon.stop()


def verifier(place: Path, name: str, text: str) -> None:
    path = place / "bin" / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def test_verifiers(daemon: Daemon, place: Path, busybox: str) -> None:
    verifier(place, "a", 'case "$2" in *busybox*) echo "unsigned: $2"; exit 1;; esac')
    refused = daemon.portside("pull", "-q", busybox, check=False)
    assert refused.returncode and "image verifier a does not allow sha256:" in refused.stderr
    assert f"unsigned: {busybox}" in refused.stderr
    assert not daemon.portside("images", "-q").stdout
    verifier(place, "a", "sleep 60")
    assert "has not answered within 2 s" in daemon.portside("run", "--rm", busybox, "true", check=False).stderr
    verifier(place, "a", "echo fine")
    assert daemon.portside("run", "--rm", busybox, "echo", "allowed").stdout == "allowed\n"


def encrypted_image() -> images.TestImage:
    """A busybox whose layer nobody but a stream processor can read."""
    image = images.busybox_image()
    manifest = json.loads(image.manifest)
    (layer,) = manifest["layers"]
    data = bytes(byte ^ 0x80 for byte in image.blobs.pop(layer["digest"]))
    layer |= {"mediaType": layer["mediaType"] + "+encrypted", "digest": images.sha256(data), "size": len(data)}
    image.blobs[layer["digest"]] = data
    image.manifest = json.dumps(manifest).encode()
    return image


@pytest.fixture(scope="session")
def encrypted(registry: str) -> str:
    return images.push(registry, "test/encrypted", "latest", encrypted_image())


def test_an_encrypted_image(daemon: Daemon, encrypted: str) -> None:
    assert daemon.portside("run", "--rm", encrypted, "echo", "read").stdout == "read\n"


def test_an_encrypted_image_by_ctr(daemon: Daemon, encrypted: str) -> None:
    daemon.ctr("images", "pull", "--plain-http", encrypted)
    assert daemon.ctr("run", "--rm", encrypted, "encrypted-by-ctr", "echo", "read").stdout == "read\n"


@pytest.mark.parametrize("daemon", ["bad"], indirect=True)
def test_without_the_key(daemon: Daemon, encrypted: str) -> None:
    refused = daemon.portside("pull", "-q", encrypted, check=False)
    assert "stream processor example.scrambled: ended with status 1: no key for it" in refused.stderr
    assert not daemon.ctr("snapshots", "ls").stdout.splitlines()[1:]


def test_nobody_can_read_it(own_daemon: Daemon, encrypted: str) -> None:
    refused = own_daemon.portside("pull", "-q", encrypted, check=False)
    assert "tar+gzip+encrypted' is not a layer that can be unpacked" in refused.stderr
