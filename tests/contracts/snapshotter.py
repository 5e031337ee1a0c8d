"""What every snapshotter must do (core/snapshots.Snapshotter). Fixtures: ``backend`` and ``snapshotter_name``."""

import asyncio
import os
from dataclasses import replace

import pytest

from portside.core.labels import SNAPSHOT_REF
from portside.core.snapshots import Kind, SnapshotInfo
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")


async def layers(snapshots, *names):
    parent = ""
    for name in names:
        await snapshots.prepare(f"making {name}", parent)
        await snapshots.commit(name, f"making {name}")
        parent = name


class SnapshotterContract:
    @pytest.fixture
    def snapshots(self, backend, snapshotter_name):
        return backend.bind("default").snapshotter(snapshotter_name)

    async def test_a_life(self, snapshots):
        mounts = await snapshots.prepare("active", labels={"a": "b"})
        assert mounts and await snapshots.mounts("active") == mounts
        info = await snapshots.stat("active")
        assert (info.name, info.parent, info.kind, dict(info.labels)) == ("active", "", Kind.ACTIVE, {"a": "b"})
        await snapshots.commit("layer", "active", {"c": "d"})
        info = await snapshots.stat("layer")
        assert (info.kind, dict(info.labels), info.parent) == (Kind.COMMITTED, {"c": "d"}, "")
        with pytest.raises(NotFound):
            await snapshots.stat("active")
        await snapshots.remove("layer")
        assert [info async for info in snapshots.walk()] == []

    async def test_children(self, snapshots):
        await layers(snapshots, "one", "two")
        assert (await snapshots.stat("two")).parent == "one"
        await snapshots.prepare("top", "two")
        await snapshots.view("look", "two")
        assert (await snapshots.stat("look")).kind == Kind.VIEW
        for key in ("one", "two"):
            with pytest.raises(FailedPrecondition):
                await snapshots.remove(key)
        for key in ("top", "look", "two", "one"):
            await snapshots.remove(key)

    async def test_missing(self, snapshots):
        for call in (snapshots.stat, snapshots.usage, snapshots.mounts, snapshots.remove):
            with pytest.raises(NotFound):
                await call("none")
        for call in (snapshots.prepare, snapshots.view):
            with pytest.raises(NotFound):
                await call("key", "no parent")
        with pytest.raises(NotFound):
            await snapshots.commit("name", "none")
        with pytest.raises(NotFound):
            await snapshots.update(SnapshotInfo("none", "", Kind.ACTIVE))

    async def test_taken(self, snapshots):
        await layers(snapshots, "layer")
        await snapshots.prepare("key", "layer")
        for key in ("key", "layer"):
            for call in (snapshots.prepare, snapshots.view):
                with pytest.raises(AlreadyExists):
                    await call(key, "layer")
        with pytest.raises(AlreadyExists):
            await snapshots.commit("layer", "key")
        assert (await snapshots.stat("key")).kind == Kind.ACTIVE

    async def test_a_commit_that_is_tried_again_says_that_it_was_done(self, snapshots):
        await layers(snapshots, "layer")
        with pytest.raises(AlreadyExists):
            await snapshots.commit("layer", "making layer")

    async def test_what_is_there_need_not_be_prepared_again(self, snapshots):
        await layers(snapshots, "chain")
        with pytest.raises(AlreadyExists):
            await snapshots.prepare("extract", labels={SNAPSHOT_REF: "chain"})
        await snapshots.prepare("extract", labels={SNAPSHOT_REF: "other chain"})
        with pytest.raises(AlreadyExists):
            await snapshots.view("look", "chain", labels={SNAPSHOT_REF: "chain"})

    async def test_states_that_do_not_fit(self, snapshots):
        await layers(snapshots, "layer")
        await snapshots.view("view", "layer")
        await snapshots.prepare("active", "layer")
        with pytest.raises(FailedPrecondition):
            await snapshots.mounts("layer")
        for parent in ("view", "active"):
            with pytest.raises(InvalidArgument):
                await snapshots.prepare("on it", parent)

    @pytest.mark.parametrize("key", ["view", "layer"])
    async def test_only_active_ones_are_committed(self, snapshots, key):
        await layers(snapshots, "layer")
        await snapshots.view("view", "layer")
        with pytest.raises(FailedPrecondition):
            await snapshots.commit("name", key)

    @pytest.mark.parametrize("key", ["", "k" * 10_000], ids=["empty", "long"])
    async def test_keys_that_are_not_allowed(self, snapshots, key):
        with pytest.raises(InvalidArgument):
            await snapshots.prepare(key)

    async def test_odd_keys(self, snapshots):
        with pytest.raises(InvalidArgument):
            await snapshots.prepare("key", labels={"k": "v" * 4096})
        for key in ("../../escape", "/abs", "sha256:" + "0" * 64, "a b", "ü"):
            await snapshots.prepare(key)
        assert len([info async for info in snapshots.walk()]) == 5

    async def test_labels(self, snapshots):
        await snapshots.prepare("key", labels={"a": "1", "b": "2"})
        info = await snapshots.stat("key")
        info = await snapshots.update(replace(info, labels={"c": "3"}), ["labels.c"])
        assert info.labels == {"a": "1", "b": "2", "c": "3"}
        info = await snapshots.update(replace(info, labels={"d": "4"}))
        assert info.labels == {"d": "4"}
        assert await snapshots.stat("key") == info
        assert info.updated_ns > info.created_ns
        with pytest.raises(InvalidArgument):
            await snapshots.update(info, ["parent"])

    async def test_walk_and_filters(self, snapshots):
        await layers(snapshots, "one", "two")
        await snapshots.prepare("top", "two", {"k": "v"})

        async def names(*filters):
            return {info.name async for info in snapshots.walk(list(filters))}

        assert await names() == {"one", "two", "top"}
        assert await names("kind==committed") == {"one", "two"}
        assert await names("parent==two") == {"top"}
        assert await names("name==one", "labels.k==v") == {"one", "top"}

    async def test_the_filter_for_a_parent(self, snapshots):
        await layers(snapshots, "one", "two")
        assert [info.name async for info in snapshots.walk(["parent"])] == ["two"]

    async def test_usage(self, snapshots):
        await layers(snapshots, "layer")
        committed = await snapshots.usage("layer")
        assert committed.size >= 0 and committed.inodes >= 1
        await snapshots.prepare("active", "layer")
        assert (await snapshots.usage("active")).inodes >= 1

    async def test_many_at_once(self, snapshots):
        await layers(snapshots, "layer")
        results = await asyncio.gather(
            *(snapshots.prepare(f"key {number % 10}", "layer") for number in range(20)), return_exceptions=True
        )
        assert sum(isinstance(result, AlreadyExists) for result in results) == 10
        sources = {str(result) for result in results if not isinstance(result, Exception)}
        assert len(sources) == 10
        await asyncio.gather(*(snapshots.remove(f"key {number}") for number in range(10)))
        await snapshots.cleanup()
        assert [info.name async for info in snapshots.walk()] == ["layer"]

    async def test_namespaces_do_not_see_each_other(self, backend, snapshots, snapshotter_name):
        await layers(snapshots, "layer")
        other = backend.bind("other").snapshotter(snapshotter_name)
        with pytest.raises(NotFound):
            await other.prepare("key", "layer")
        await other.prepare("layer")
        assert (await snapshots.stat("layer")).kind == Kind.COMMITTED

    async def test_a_snapshotter_that_is_not_there(self, backend):
        with pytest.raises((InvalidArgument, NotFound)):
            await backend.bind("default").snapshotter("bananas").stat("x")

    async def test_a_lease_holds_what_is_made_under_it(self, backend, snapshotter_name):
        services = backend.bind("default")
        await services.leases.create("lease")
        snapshots = backend.bind("default", "lease").snapshotter(snapshotter_name)

        async def held():
            return [(resource.type, resource.id) for resource in await services.leases.list_resources("lease")]

        await snapshots.prepare("key")
        assert await held() == [(f"snapshots/{snapshotter_name}", "key")]
        await snapshots.commit("layer", "key")
        assert await held() == [(f"snapshots/{snapshotter_name}", "layer")]
        await snapshots.remove("layer")
        assert await held() == []

    async def test_the_parent_that_it_has(self, snapshots):
        await layers(snapshots, "one")
        await snapshots.prepare("key", "one")
        await snapshots.commit("two", "key", parent="one")
        assert (await snapshots.stat("two")).parent == "one"


class OurSnapshotterContract(SnapshotterContract):
    """What containerd before 2.2 does not do: a parent that is told at commit."""

    async def test_cleanup_deletes_what_was_removed(self, backend, snapshotter_name, snapshots):
        await snapshots.prepare("gone")
        await snapshots.remove("gone")
        await snapshots.cleanup()
        root = backend.root / snapshotter_name
        assert (os.listdir(root / "removed"), os.listdir(root / "snapshots")) == ([], [])

    async def test_a_rebase(self, snapshotter_name, snapshots):
        """A layer that was unpacked on nothing is put on the one below it."""
        await layers(snapshots, "one", "two")
        (mount,) = await snapshots.prepare("apart")
        write(f"{mount.source}/own", "upper")
        if snapshotter_name == "native":
            with pytest.raises(Unimplemented):
                await snapshots.commit("three", "apart", parent="two")
            return
        await snapshots.commit("three", "apart", {"a": "b"}, parent="two")
        info = await snapshots.stat("three")
        assert (info.parent, info.kind, dict(info.labels)) == ("two", Kind.COMMITTED, {"a": "b"})
        with pytest.raises(FailedPrecondition):
            await snapshots.remove("two")
        (overlay,) = await snapshots.prepare("top", "three")
        lowers = next(option for option in overlay.options if option.startswith("lowerdir=")).split(":")
        assert len(lowers) == 3 and lowers[0] == f"lowerdir={mount.source}"
        assert [found.name async for found in snapshots.walk(["parent==two"])] == ["three"]

    async def test_odd_rebases(self, snapshots):
        await layers(snapshots, "one")
        await layers(snapshots, "other")
        await snapshots.prepare("apart")
        await snapshots.prepare("on one", "one")
        for key, parent, error in (
            ("apart", "none", NotFound),
            ("apart", "on one", InvalidArgument),
            ("on one", "other", InvalidArgument),
            ("one", "other", FailedPrecondition),
        ):
            with pytest.raises(error):
                await snapshots.commit("new", key, parent=parent)
        assert (await snapshots.stat("apart")).kind == Kind.ACTIVE


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
