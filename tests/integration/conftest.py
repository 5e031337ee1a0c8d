"""One registry for the run, one daemon for each module; a test that kills its daemon makes its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.conftest import HTPASSWD
from tests.support import images, peers


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with peers.registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def busybox(registry: str) -> str:
    """The reference of a busybox image on the registry."""
    if not images.BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    return images.push(registry, "test/busybox", "latest", images.busybox_image())


@pytest.fixture(scope="session")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A registry that wants ``user`` and ``secret``, with an image that an open one on the same directory took."""
    directory = tmp_path_factory.mktemp("closed")
    with peers.registry(directory) as open_host:
        images.push(open_host, "test/closed", "1", images.make_image([images.tar_layer({"a": b"b"})]))
    (directory / "htpasswd").write_text(HTPASSWD)
    with peers.registry(directory, f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n") as host:
        yield host, f"{host}/test/closed:1"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Daemon]:
    peers.need_root()
    daemon = peers.Daemon(tmp_path_factory.mktemp("d"))
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[peers.Daemon]:
    peers.need_root()
    daemon = peers.Daemon(tmp_path)
    daemon.start()
    yield daemon
    daemon.stop()
