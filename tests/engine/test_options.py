"""Tables of our plugins: read by the right parts, and what a namespace uses that has no label."""

import dataclasses

import pytest

from portside.core.labels import DEFAULT_RUNTIME, DEFAULT_SNAPSHOTTER
from portside.core.plugin import DEFAULTS, GC, METADATA, SNAPSHOTTER
from portside.core.settings import Defaults
from portside.core.tables import encode
from portside.engine.builtin import PLUGINS
from portside.engine.engine import EngineConfig, LocalBackend
from portside.engine.gc import Policy
from portside.engine.options import TransferOptions
from portside.engine.outside import DIFF_SERVICE
from portside.engine.transfer.config import TransferConfig
from portside.errors import Unimplemented

pytestmark = pytest.mark.root
ENGINE = f"{DEFAULTS}.engine"


@pytest.fixture
async def opened(tmp_path):
    backends = []

    async def open(**settings):
        backends.append(await LocalBackend.open(EngineConfig(tmp_path / "root", tmp_path / "state", **settings)))
        return backends[-1]

    yield open
    for backend in backends:
        await backend.close()


async def status(backend, uri):
    [plugin] = [plugin for plugin in backend.plugins if f"{plugin.type}.{plugin.id}" == uri]
    return plugin


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.uri)
def test_every_table_has_a_class_with_defaults(plugin):
    assert plugin.config is not None
    for key, value in encode(plugin.config()).items():
        assert isinstance(key, str) and value is not None


def test_defaults_of_transfers_are_those_it_has():
    fields = [field.name for field in dataclasses.fields(TransferOptions)]
    assert [getattr(TransferOptions(), name) for name in fields] == [getattr(TransferConfig(), name) for name in fields]


async def test_defaults_of_namespaces(opened):
    backend = await opened(plugins={ENGINE: {"snapshotter": "native", "runtime": "io.containerd.kata.v2"}})
    assert (await status(backend, ENGINE)).exports == {"snapshotter": "native", "runtime": "io.containerd.kata.v2"}
    services = backend.bind("plain")
    assert services.default_snapshotter == "native" and await services.default_runtime() == "io.containerd.kata.v2"
    await backend.namespaces.create(
        "own", {DEFAULT_SNAPSHOTTER: "overlayfs", DEFAULT_RUNTIME: "io.containerd.runsc.v1"}
    )
    services = backend.bind("own").with_lease("x")
    assert services.default_snapshotter == "overlayfs" and await services.default_runtime() == "io.containerd.runsc.v1"


async def test_without_any_setting(opened):
    backend = await opened()
    assert (await status(backend, ENGINE)).exports == {}
    services = backend.bind("plain")
    assert services.default_snapshotter in backend.snapshotters()
    assert await services.default_runtime() == "io.containerd.runc.v2"


async def test_a_default_that_is_not_there(opened):
    backend = await opened(plugins={ENGINE: {"snapshotter": "zfs"}})
    assert "default snapshotter 'zfs': there is none" in (await status(backend, ENGINE)).error
    assert backend.bind("plain").default_snapshotter in backend.snapshotters()
    assert backend._defaults == Defaults()


async def test_settings_of_collections(opened):
    backend = await opened(plugins={f"{GC}.scheduler": {"pause_threshold": 0.7, "schedule_delay": "1m0s"}})
    assert backend._collector._policy == Policy(pause_threshold=0.5, schedule_delay=60.0)


@pytest.mark.parametrize("table", [{"schedule_delay": "soon"}, {"deletion_threshold": -1}])
async def test_settings_of_collections_that_do_not_fit(opened, table):
    backend = await opened(plugins={f"{GC}.scheduler": table})
    assert (await status(backend, f"{GC}.scheduler")).error
    assert backend._collector._policy == Policy()


async def test_nothing_is_collected_without_a_scheduler(opened):
    backend = await opened(disabled_plugins=[f"{GC}.scheduler"])
    assert backend._collector._task is None


async def test_settings_of_backups(opened):
    backend = await opened(plugins={f"{METADATA}.sqlite": {"backup_interval": "1h30m", "backups": 5}})
    assert (backend._backups._interval, backend._backups._keep) == (5400.0, 5)


@pytest.mark.parametrize(
    ("table", "reason"),
    [({"default": "walking"}, "default: want a list"), ({"default": ["x"]}, "default: there is no differ 'x'")],
)
async def test_differs_that_are_not_there(opened, table, reason):
    backend = await opened(plugins={DIFF_SERVICE: table})
    assert reason in (await status(backend, DIFF_SERVICE)).error
    with pytest.raises(Unimplemented, match="there is no differ"):
        await backend.bind("plain").diff.compare([], [])


async def test_options_of_overlay_mounts(opened):
    backend = await opened(plugins={f"{SNAPSHOTTER}.overlayfs": {"mount_options": ["volatile"]}})
    if "overlayfs" not in backend.snapshotters():
        pytest.skip("overlayfs does not work here")
    snapshots = backend.bind("plain").snapshotter("overlayfs")
    await snapshots.prepare("one")
    await snapshots.commit("base", "one")
    [mount] = await snapshots.prepare("two", "base")
    assert "volatile" in mount.options
    await snapshots.remove("two")
    await snapshots.remove("base")
