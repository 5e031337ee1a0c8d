"""What cannot work is refused in one sentence that names the object and the step, and leaves nothing behind."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from tests.support import images
from tests.support.peers import Daemon

pytestmark = pytest.mark.root


def _pull(daemon: Daemon, reference: str) -> str:
    """What both commands say of an image that cannot be pulled; neither leaves it, or a snapshot of it, behind."""
    before = daemon.ctr("snapshots", "ls").stdout
    ours = daemon.portside("pull", "--plain-http", "-q", reference, check=False)
    assert ours.returncode
    assert reference not in daemon.ctr("images", "ls", "-q").stdout.split()
    by_ctr = daemon.ctr("images", "pull", "--plain-http", reference, check=False)
    assert by_ctr.returncode
    assert daemon.ctr("snapshots", "ls").stdout == before
    # ctr itself names an image before it unpacks it.
    daemon.ctr("images", "rm", reference, check=False)
    message = ours.stderr.strip()
    assert "\n" not in message, message
    return message


def test_missing_image(daemon: Daemon, registry: str) -> None:
    reference = f"{registry}/test/nothing:here"
    message = _pull(daemon, reference)
    assert reference in message
    assert "not found" in message


def test_wrong_digest_of_a_layer_is_noticed(daemon: Daemon, registry: str) -> None:
    """The diffID that the configuration promises is not what the layer holds."""
    image = images.busybox_image()
    config_digest = json.loads(image.manifest)["config"]["digest"]
    config = json.loads(image.blobs.pop(config_digest))
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    document = json.dumps(config).encode()
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": images.sha256(document), "size": len(document)}
    lying = images.TestImage(json.dumps(manifest).encode(), image.blobs | {images.sha256(document): document})
    message = _pull(daemon, images.push(registry, "test/lying", "v1", lying))
    assert "sha256:" + "0" * 12 in message


def test_truncated_layer(daemon: Daemon, registry: str) -> None:
    whole = images.tar_layer(images.busybox_files())
    cut = gzip.compress(whole, 1)[:-5000]
    image = images.make_image([whole])
    manifest = json.loads(image.manifest)
    manifest["layers"][0] |= {"digest": images.sha256(cut), "size": len(cut)}
    image = replace(image, manifest=json.dumps(manifest).encode(), blobs=image.blobs | {images.sha256(cut): cut})
    message = _pull(daemon, images.push(registry, "test/cut", "v1", image))
    assert images.sha256(cut)[:19] in message


@pytest.mark.parametrize("name", ["../escape", "a/../../escape"])
def test_layer_that_leaves_the_root(daemon: Daemon, registry: str, name: str) -> None:
    layer = images.tar_layer({name: b"out"})
    reference = images.push(registry, "test/escape", "v1", images.make_image([layer]))
    message = _pull(daemon, reference)
    assert "escape" in message


def test_link_out_of_the_root_stays_inside(daemon: Daemon, registry: str, tmp_path: object) -> None:
    """A link to the outside is a link; what is written through it must not land outside."""
    layer = images.tar_layer({"way": str(tmp_path), "way/planted": b"x"})
    reference = images.push(registry, "test/link", "v1", images.make_image([layer]))
    daemon.ctr("images", "pull", "--plain-http", reference, check=False)
    assert not list(tmp_path.iterdir())  # type: ignore[attr-defined]


def test_command_that_is_not_there(daemon: Daemon, busybox: str) -> None:
    daemon.ctr("images", "pull", "--plain-http", busybox)
    result = daemon.ctr("run", "--rm", busybox, "b1", "/no/such/thing", check=False)
    assert result.returncode
    assert "/no/such/thing" in result.stderr
    ours = daemon.portside("run", "--rm", busybox, "/no/such/thing", check=False)
    assert ours.returncode == 127
    assert "/no/such/thing" in ours.stderr
    _nothing_is_left(daemon)


def test_unknown_user(daemon: Daemon, busybox: str) -> None:
    result = daemon.portside("run", "--rm", "--plain-http", "-u", "nobody-here", busybox, "true", check=False)
    assert result.returncode == 125
    assert "nobody-here" in result.stderr
    _nothing_is_left(daemon)


def test_spec_that_is_not_json(daemon: Daemon, busybox: str, tmp_path: object) -> None:
    spec = tmp_path / "spec.json"  # type: ignore[operator]
    spec.write_text('{"process": ')
    result = daemon.ctr("run", "--rm", "--config", str(spec), "b2", check=False)
    assert result.returncode
    _nothing_is_left(daemon)


def _nothing_is_left(daemon: Daemon) -> None:
    assert daemon.ctr("tasks", "ls", "-q").stdout == ""
    left = [line for line in daemon.ctr("snapshots", "ls").stdout.splitlines() if " Active" in line]
    assert left == []
