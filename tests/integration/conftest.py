"""One registry for the run, one daemon for each module; a test that kills its daemon makes its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
