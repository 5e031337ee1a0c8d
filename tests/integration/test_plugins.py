"""Plugins of packages in a real daemon, as ctr and our own client show them; defaults, as clients find them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.core.labels import DEFAULT_RUNTIME
from portside.core.plugin import DEFAULTS, SNAPSHOTTER
from portside.remote.backend import RemoteBackend
from tests.support.containerd import containerd
from tests.support.peers import Daemon, need_root, run

pytestmark = pytest.mark.root

MODULE = """
from dataclasses import dataclass
from portside.core.plugin import SNAPSHOTTER, Plugin, SkipPlugin
from portside.snapshots.native import NativeDriver

@dataclass(frozen=True)
class Settings:
    word: str = "default"

def skipping(init):
    raise SkipPlugin("no such device")

def failing(init):
    raise RuntimeError("a defect in " + init.settings.word)

PLUGINS = [
    Plugin(SNAPSHOTTER, "mine", lambda init: NativeDriver(init.make_root()), config=Settings,
           exports=lambda init: {"root": str(init.root), "word": init.settings.word}, capabilities=("rebase",)),
    Plugin(SNAPSHOTTER, "absent", skipping),
    Plugin(SNAPSHOTTER, "broken", failing, config=Settings),
    Plugin("com.example.part.v1", "user", lambda init: init.get(SNAPSHOTTER + ".broken"),
           requires=(SNAPSHOTTER + ".broken",)),
]
"""

CONFIG = """
version = 4
[plugins.'io.containerd.snapshotter.v1.mine']
word = 'from the file'
[plugins.'io.containerd.snapshotter.v1.broken']
wrd = 1
[plugins.'io.portside.defaults.v1.engine']
snapshotter = 'mine'
runtime = 'io.containerd.portside.v2'
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    need_root()
    site = tmp_path_factory.mktemp("site")
    information = site / "example-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[portside.plugins]\nall = example:PLUGINS\ngone = gone:PLUGIN\n")
    (site / "example.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        daemon = Daemon(tmp_path_factory.mktemp("d"), CONFIG)
        daemon.start()
        yield daemon
        daemon.stop()


def listed(daemon: Daemon, *filters: str) -> dict[str, str]:
    """Status by URI."""
    lines = daemon.ctr("plugins", "ls", *filters).stdout.splitlines()[1:]
    return {f"{words[0]}.{words[1]}": words[-1] for line in lines if (words := line.split())}


def test_states_as_ctr_shows_them(daemon: Daemon) -> None:
    states = listed(daemon)
    assert states[f"{SNAPSHOTTER}.mine"] == "ok" and states[f"{SNAPSHOTTER}.native"] == "ok"
    assert states[f"{SNAPSHOTTER}.absent"] == "skip" and states[f"{SNAPSHOTTER}.broken"] == "error"
    assert states["com.example.part.v1.user"] == "error"
    assert states["io.portside.entry-point.v1.example.gone"] == "error"
    assert set(listed(daemon, f"type=={SNAPSHOTTER}")) == {
        f"{SNAPSHOTTER}.{id}" for id in ("overlayfs", "native", "mine", "absent", "broken")
    }
    assert listed(daemon, "id==absent", "id==mine").keys() == {f"{SNAPSHOTTER}.absent", f"{SNAPSHOTTER}.mine"}
    assert listed(daemon, f"type=={SNAPSHOTTER},id~=^m").keys() == {f"{SNAPSHOTTER}.mine"}


def test_details_as_ctr_shows_them(daemon: Daemon) -> None:
    detail = daemon.ctr("plugins", "ls", "-d", "id==mine").stdout
    assert "word" in detail and "from the file" in detail and "rebase" in detail
    assert "RuntimeError: a defect in default" in daemon.ctr("plugins", "ls", "-d", "id==broken").stdout
    assert "no such device: skip plugin" in daemon.ctr("plugins", "ls", "-d", "id==absent").stdout
    detail = daemon.ctr("plugins", "ls", "-d", "id==user").stdout
    assert f"requires {SNAPSHOTTER}.broken: broken: RuntimeError" in detail


def test_a_filter_that_does_not_parse(daemon: Daemon) -> None:
    result = daemon.ctr("plugins", "ls", "id=mine", check=False)
    assert result.returncode != 0 and "invalid" in result.stderr


def test_the_daemon_says_what_it_made_of_them(daemon: Daemon) -> None:
    log = daemon.log.read_text()
    assert f"plugins.'{SNAPSHOTTER}.broken': unknown keys, no effect: wrd" in log
    assert "plugin package example: entry point gone: No module named 'gone'" in log
    assert f"plugin {SNAPSHOTTER}.absent skipped: no such device" in log
    assert "RuntimeError" in log and "Traceback" in log


def test_a_snapshotter_of_a_package_works(daemon: Daemon) -> None:
    words = ("snapshots", "--snapshotter", "mine")
    daemon.ctr(*words, "prepare", "one")
    assert str(daemon.root / f"{SNAPSHOTTER}.mine") in daemon.ctr(*words, "mounts", "/mnt", "one").stdout
    daemon.ctr(*words, "commit", "base", "one")
    assert "base" in daemon.ctr(*words, "ls").stdout
    daemon.ctr(*words, "rm", "base")


async def test_defaults_are_found_by_clients(daemon: Daemon) -> None:
    backend = await RemoteBackend.connect(str(daemon.socket))
    try:
        services = backend.bind("defaults")
        assert services.default_snapshotter == "mine"
        assert await services.default_runtime() == "io.containerd.portside.v2"
        await backend.namespaces.create("defaults-own", {DEFAULT_RUNTIME: "io.containerd.kata.v2"})
        assert await backend.bind("defaults-own").default_runtime() == "io.containerd.kata.v2"
        [plugin] = await backend.introspection.plugins([f"type=={DEFAULTS}"])
        assert plugin.exports == {"snapshotter": "mine", "runtime": "io.containerd.portside.v2"}
    finally:
        await backend.close()


async def test_defaults_of_containerd(tmp_path: Path) -> None:
    with containerd(tmp_path / "c") as socket:
        run("ctr", "-a", str(socket), "namespaces", "create", "own", f"{DEFAULT_RUNTIME}=io.containerd.kata.v2")
        backend = await RemoteBackend.connect(str(socket))
        try:
            assert backend.bind("own").default_snapshotter in backend.snapshotters()
            assert await backend.bind("own").default_runtime() == "io.containerd.kata.v2"
            assert await backend.bind("none").default_runtime() == "io.containerd.runc.v2"
        finally:
            await backend.close()


def test_the_command_knows_them_too(daemon: Daemon) -> None:
    assert daemon.config is not None
    text = daemon.portside("config", "dump", "-c", str(daemon.config)).stdout
    assert "from the file" in text and "io.containerd.snapshotter.v1.mine" in text
