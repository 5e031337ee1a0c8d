"""The snapshotter's contract where the snapshotter is somebody else's: our records, a plugin's snapshots.

The plugin is ours, served as to containerd; between the two are real sockets.
"""

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from portside.core.labels import SNAPSHOT_REF
from portside.core.settings import ProxyPlugin
from portside.daemon.plugin_host import PluginHost
from portside.engine.graph import PluginGraph
from portside.engine.proxies import Proxies
from portside.errors import AlreadyExists
from tests.contracts.local import LocalBackend
from tests.contracts.snapshotter import OurSnapshotterContract, layers

DRIVERS = ("native", "overlayfs")


@pytest.fixture
async def backend(tmp_path):
    async with AsyncExitStack() as scope:
        short = scope.enter_context(tempfile.TemporaryDirectory(prefix="portside"))
        for name in DRIVERS:
            host = await PluginHost.start(
                "snapshot", str(Path(short, name)), root=tmp_path / f"plugin-{name}", snapshotter=name
            )
            scope.push_async_callback(host.stop, 5)
        proxies = Proxies({name: ProxyPlugin("snapshot", str(Path(short, name))) for name in DRIVERS}, {})
        graph = PluginGraph(tmp_path, tmp_path, {})
        graph.build(proxies.plugins)
        local = LocalBackend(tmp_path / "ours", graph.all("io.containerd.snapshotter.v1"))
        yield local
        await proxies.close()
        await local.close()


@pytest.fixture(params=DRIVERS)
def snapshotter_name(request):
    return request.param


class TestProxied(OurSnapshotterContract):
    test_cleanup_deletes_what_was_removed = None  # where it keeps what was removed is the plugin's business

    async def test_names_there_are_of_containerds_form(self, tmp_path, backend, snapshots, snapshotter_name):
        await layers(snapshots, "layer")
        await snapshots.prepare("top", "layer", {"containerd.io/snapshot/x": "passed on", "own": "not"})
        there = backend.drivers[snapshotter_name].bind("default")
        found = {info.name: info for info in [info async for info in there.walk()]}
        top = next(info for name, info in found.items() if name.endswith("/top"))
        assert top.name.startswith("default/") and top.parent.endswith("/layer") and top.parent in found
        assert dict(top.labels) == {"containerd.io/snapshot/x": "passed on"}
        await snapshots.remove("top")
        await snapshots.remove("layer")
        assert [info async for info in there.walk()] == []

    async def test_a_target_that_is_there_is_adopted_by_all_who_ask(self, backend, snapshots, snapshotter_name):
        """What a lazy snapshotter does by itself is done here by hand."""
        there = backend.drivers[snapshotter_name].bind("default")

        class Lazy:
            """Answers a prepare with a target as a lazy snapshotter does; all else is the plugin's."""

            def __getattr__(self, name):
                return getattr(there, name)

            async def prepare(self, key, parent="", labels=None):
                target = (labels or {}).get(SNAPSHOT_REF)
                if target is None:
                    return await there.prepare(key, parent, labels)
                if target not in {info.name async for info in there.walk()}:
                    await there.prepare(key, parent, labels)
                    await there.commit(target, key, labels)
                raise AlreadyExists(f"target {target}")

        keeper = backend.metadata._snapshotters[snapshotter_name]
        keeper._foreign = type(keeper._foreign)(snapshotter_name, lambda namespace: Lazy())
        for namespace in ("default", "other"):
            store = backend.bind(namespace).snapshotter(snapshotter_name)
            with pytest.raises(AlreadyExists, match="target"):
                await store.prepare("extract", "", {SNAPSHOT_REF: "chain"})
            info = await store.stat("chain")
            assert (info.name, info.labels[SNAPSHOT_REF]) == ("chain", "chain")
            await store.prepare("top", "chain")
            await store.remove("top")
        await snapshots.remove("chain")
        assert [info.name async for info in there.walk()] == ["chain"]
        assert (await backend.bind("other").snapshotter(snapshotter_name).usage("chain")).inodes >= 1
        await backend.bind("other").snapshotter(snapshotter_name).remove("chain")
        assert [info async for info in there.walk()] == []

    async def test_what_a_crash_left_there_goes(self, backend, snapshots, snapshotter_name):
        there = backend.drivers[snapshotter_name].bind("default")
        await layers(snapshots, "layer")
        (ours,) = [info.name async for info in there.walk()]
        await there.prepare("default/999/left", ours)
        await there.prepare("somebody else's")
        await backend.metadata.reconcile()
        assert {info.name async for info in there.walk()} == {ours, "somebody else's"}

    async def test_a_commit_that_was_not_recorded_is_taken_up(self, backend, snapshots, snapshotter_name):
        there = backend.drivers[snapshotter_name].bind("default")
        await snapshots.prepare("making")
        (name,) = [info.name async for info in there.walk()]
        await there.commit(name.replace("making", "layer"), name)
        await backend.metadata.reconcile()
        await snapshots.commit("layer", "making")
        assert (await snapshots.usage("layer")).inodes >= 1
        await snapshots.view("look", "layer")
