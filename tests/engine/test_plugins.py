"""Plugins of installed packages, with docs/plugins.md's example as the package."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from portside.core.plugin import SNAPSHOTTER
from portside.engine import plugins
from portside.engine.builtin import PLUGINS
from portside.engine.engine import EngineConfig, LocalBackend
from portside.engine.outside import DIFF_SERVICE
from portside.engine.plugins import ENTRY_POINT, registered
from portside.errors import FailedPrecondition

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
REFLINK = f"{SNAPSHOTTER}.reflink"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The page's package, installed by pip into a directory of its own."""
    for name in ("pip", "hatchling"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: the example cannot be built")
    source, target = tmp_path_factory.mktemp("reflink"), tmp_path_factory.mktemp("site")
    for name, text in re.findall(r"```\w+\n# file: (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    (source / "portside_reflink/__init__.py").touch()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", target, source], check=True, timeout=120)
    return target


@pytest.fixture
def example(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    yield
    for name in [name for name in sys.modules if name.startswith("portside_reflink")]:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an installed package of one module by hand, and forgets it afterwards."""
    made = []

    def package(name, entry_points, source):
        information = tmp_path / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[portside.plugins]\n{entry_points}\n")
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)

    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in made:
        sys.modules.pop(name, None)


async def opened(tmp_path, **settings):
    return await LocalBackend.open(EngineConfig(tmp_path / "root", tmp_path / "state", **settings))


async def status_of(backend, uri):
    type, _, id = uri.rpartition(".")
    [plugin] = await backend.introspection.plugins([f"type=={type},id=={id}"])
    return plugin


def test_without_packages_there_are_ours():
    assert registered() == list(PLUGINS)


@pytest.mark.root
async def test_the_example_is_a_snapshotter(example, tmp_path):
    backend = await opened(tmp_path, plugins={REFLINK: {"mode": "auto"}}, required_plugins=[REFLINK])
    try:
        plugin = await status_of(backend, REFLINK)
        assert (plugin.error, plugin.exports) == ("", {"root": str(tmp_path / "root" / REFLINK)})
        snapshots = backend.bind("default").snapshotter("reflink")
        [mount] = await snapshots.prepare("one")
        os.symlink("text", f"{mount.source}/file")
        await snapshots.commit("base", "one")
        [mount] = await snapshots.prepare("two", "base")
        assert os.readlink(f"{mount.source}/file") == "text"
        [view] = await snapshots.view("three", "base")
        assert "ro" in view.options
        for key in ("two", "three", "base"):
            await snapshots.remove(key)
    finally:
        await backend.close()


@pytest.mark.root
async def test_a_setting_that_does_not_fit_fails_the_example_alone(example, tmp_path):
    backend = await opened(tmp_path, plugins={REFLINK: {"mode": 1}})
    try:
        plugin = await status_of(backend, REFLINK)
        assert plugin.error == f"plugins.'{REFLINK}'.mode: want text, not 1" and not plugin.skipped
        assert "reflink" not in backend.snapshotters() and "native" in backend.snapshotters()
    finally:
        await backend.close()


@pytest.mark.root
async def test_required_and_disabled(example, tmp_path):
    with pytest.raises(FailedPrecondition, match=rf"required plugin {REFLINK}: plugins\..* want text"):
        await opened(tmp_path, plugins={REFLINK: {"mode": 1}}, required_plugins=[REFLINK])
    backend = await opened(tmp_path, disabled_plugins=[REFLINK])
    try:
        assert not [plugin for plugin in backend.plugins if plugin.id == "reflink"]
    finally:
        await backend.close()


DIFFER_PACKAGE = """
from portside.core.plugin import DIFFER, Plugin
from portside.errors import Unimplemented

class Nothing:
    def __init__(self, namespace):
        self.namespace = namespace
    async def apply(self, layer, mounts, **options):
        raise Unimplemented("not mine")
    async def compare(self, lower, upper, **options):
        return self.namespace

PLUGIN = Plugin(DIFFER, "nothing", lambda init: Nothing)
"""


@pytest.mark.root
async def test_a_package_can_have_a_differ(package, tmp_path):
    package("differing", "nothing = differing:PLUGIN", DIFFER_PACKAGE)
    backend = await opened(tmp_path, plugins={DIFF_SERVICE: {"default": ["nothing", "walking"]}})
    try:
        assert await backend.bind("mine").diff.compare([], []) == "mine"
    finally:
        await backend.close()


def failures():
    return {
        plugin.id: _reason(plugin)
        for plugin in registered()
        if plugin.type == ENTRY_POINT
    }  # fmt: skip


def _reason(plugin):
    with pytest.raises(FailedPrecondition) as info:
        plugin.build(None)
    return str(info.value)


def test_what_cannot_be_loaded_is_a_plugin_that_fails(package):
    package(
        "broken",
        "a = broken:MISSING\nb = broken:NUMBER\nc = gone:PLUGIN\nd = broken:NAMELESS\ne = broken:PLUGINS",
        "from portside.core.plugin import Plugin\nNUMBER = 3\nNAMELESS = Plugin('x.y', '', print)\n"
        "PLUGINS = [Plugin('x.y', 'one', print), Plugin('x.y', 'two', print)]\n",
    )
    package("raises", "f = raises:PLUGIN", "import os\nraise SystemError('on import')\n")
    package("leaves", "g = leaves:PLUGIN", "import sys\nsys.exit(3)\n")
    package(
        "settings",
        "h = settings:H\ni = settings:I\nj = settings:J",
        "from dataclasses import dataclass\nfrom portside.core.plugin import Plugin\n"
        "@dataclass\nclass Needy:\n    word: str\n@dataclass\nclass Odd:\n    word: str | None = None\n"
        "H, I, J = (Plugin('x.z', name, print, config=kind) for name, kind in zip('hij', (Needy, Odd, 3)))\n",
    )
    assert failures() == {
        "broken.a": "broken:MISSING: AttributeError: module 'broken' has no attribute 'MISSING'",
        "broken.b": "broken:NUMBER: TypeError: broken:NUMBER is 3, not a Plugin or a list of them",
        "broken.c": "gone:PLUGIN: ModuleNotFoundError: No module named 'gone'",
        "broken.d": "broken:NAMELESS: ValueError: 'x.y.' is no URI for a plugin",
        "raises.f": "raises:PLUGIN: SystemError: on import",
        "leaves.g": "leaves:PLUGIN: SystemExit: 3",
        "settings.h": "settings:H: TypeError: Needy.word has no default",
        "settings.i": "settings:I: TypeError: Odd.word: str | None is no type for a setting",
        "settings.j": "settings:J: TypeError: 3 is no dataclass",
    }
    assert [plugin.id for plugin in registered() if plugin.type == "x.y"] == ["one", "two"]


def test_nobody_takes_a_name_that_is_taken(package):
    package(
        "thief",
        "a = thief:PLUGINS",
        "from portside.core.plugin import Plugin\n"
        "PLUGINS = [Plugin('io.containerd.content.v1', 'content', print), Plugin('x.y', 'own', print)]\n",
    )
    assert failures() == {"thief.a": "io.containerd.content.v1.content is registered already, by portside"}
    assert [plugin.id for plugin in registered() if plugin.type == "x.y"] == ["own"]


def test_looking_costs_nothing_where_nobody_has_plugins(monkeypatch, tmp_path):
    (tmp_path / "other-1.dist-info").mkdir()
    (tmp_path / "other-1.dist-info/entry_points.txt").write_text("[console_scripts]\nx = y:z\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing")])
    assert not plugins._any_installed()
    (tmp_path / "mine-1.dist-info").mkdir()
    (tmp_path / "mine-1.dist-info/entry_points.txt").write_text("[portside.plugins]\nx = y:z\n")
    assert plugins._any_installed()
