"""Metadata made again from the disk, a backup and what is left of the old file."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from pathlib import Path

import pytest

from portside.content.blobs import BlobStore
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.labels import GC_EXPIRE, GC_REF_SNAPSHOT, UNCOMPRESSED
from portside.core.plugin import CONTENT
from portside.core.snapshots import Kind
from portside.doctor.rebuild import rebuild
from portside.doctor.records import database, read_records
from portside.doctor.repair import drivers_of
from portside.metadata.backups import Backups
from portside.metadata.database import Database
from portside.metadata.schema import CONTAINERS, IMAGES, LEASES, NAMESPACES, RESOURCES, SNAPSHOTS
from portside.metadata.schema import CONTENT as CONTENT_TABLE
from portside.metadata.store import Metadata
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from tests.support import images

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")


class Root:
    """A root without a daemon: its stores, to be filled, closed and broken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = BlobStore(path / f"{CONTENT}.content")
        self.drivers = drivers_of(path)
        self.db = Database.open(database(path))
        self.metadata = Metadata(self.db, self.blobs, self.drivers)

    async def blob(self, namespace: str, data: bytes) -> Digest:
        writer = await self.metadata.content(namespace).writer(images.sha256(data), len(data), Digest.of(data))
        await writer.write(data)
        return await writer.commit()

    async def image(self, namespace: str, image: images.TestImage) -> list[str]:
        """All blobs, and a snapshot for each layer; the chain."""
        for data in (*image.blobs.values(), image.manifest):
            await self.blob(namespace, data)
        config = json.loads(image.blobs[json.loads(image.manifest)["config"]["digest"]])
        store, chain = self.metadata.snapshotter(namespace, "overlayfs"), []
        for number, diff_id in enumerate(config["rootfs"]["diff_ids"]):
            parent = chain[-1] if chain else ""
            chain.append(str(Digest.of(f"{parent} {diff_id}".encode())) if parent else diff_id)
            await store.prepare(f"extract {number}", parent)
            await store.commit(chain[-1], f"extract {number}", {"layer": str(number)})
        return chain

    async def close(self) -> None:
        await self.metadata.close()
        await self.db.close()

    async def rebuilt(self, state: Path | None = None):
        """What it tells, and the records that there are then."""
        await self.close()
        done = await rebuild(self.path, state, self.blobs, self.drivers)
        records = read_records(self.path)
        assert records.problem is None
        return done, records.state


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


def two_layers(**annotations: str) -> images.TestImage:
    image = images.make_image([images.tar_layer({"a": b"1"}), images.tar_layer({"b": b"2"})])
    if annotations:
        document = json.loads(image.manifest) | {"annotations": {"io.containerd.image.name": annotations["name"]}}
        image.manifest = json.dumps(document).encode()
    return image


async def test_from_the_disk_alone(root: Root, tmp_path: Path) -> None:
    image = two_layers()
    chain = await root.image("ours", image)
    await root.metadata.snapshotter("ours", "overlayfs").prepare("box", chain[-1], {"own": "label"})
    stray = await root.blob("ours", b"nobody's")
    bundle = tmp_path / "state/io.containerd.runtime.v2.task/ours/box"
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text('{"ociVersion": "1.1.0"}')
    (bundle / "work").symlink_to(root.path / "io.containerd.runtime.v2.task/ours/box")
    await root.close()
    database(root.path).unlink()
    done, state = await root.rebuilt(tmp_path / "state")
    assert done.sources == ["the disk"] and done.set_aside == ""

    assert set(state.rows(NAMESPACES, ())) == {"ours", "default"}
    content = state.rows(CONTENT_TABLE, ("ours",))
    assert set(content) == {image.digest, *image.blobs}
    manifest = json.loads(image.manifest)
    assert content[image.digest].labels["containerd.io/gc.ref.content.config"] == manifest["config"]["digest"]
    assert content[manifest["config"]["digest"]].labels[f"{GC_REF_SNAPSHOT}overlayfs"] == chain[-1]
    assert content[manifest["layers"][0]["digest"]].labels[UNCOMPRESSED] == chain[0]
    [found] = state.rows(IMAGES, ("ours",)).values()
    assert (found.name, found.target.digest) == (f"rebuilt/{image.digest}", image.digest)

    snapshots = state.rows(SNAPSHOTS, ("ours", "overlayfs"))
    assert {key: each.info.parent for key, each in snapshots.items()} == {
        chain[0]: "",
        chain[1]: chain[0],
        "box": chain[1],
    }
    assert snapshots[chain[1]].info.kind == Kind.COMMITTED and snapshots[chain[1]].info.labels == {"layer": "1"}
    assert snapshots["box"].info.kind == Kind.ACTIVE and snapshots[chain[0]].usage is not None
    [box] = state.rows(CONTAINERS, ("ours",)).values()
    assert (box.id, box.snapshotter, box.snapshot_key) == ("box", "overlayfs", "box")

    assert set(state.rows(CONTENT_TABLE, ("default",))) == {stray}
    lease = state.get(LEASES, ("default",), "rebuilt")
    assert lease is not None and lease.labels[GC_EXPIRE].endswith("Z")
    assert [resource.id for resource in state.rows(RESOURCES, ("default", "rebuilt")).values()] == [stray]
    assert state.get(LEASES, ("ours",), "rebuilt") is None

    again = Root(root.path)
    await again.metadata.collect()
    assert set(again.db.state.rows(SNAPSHOTS, ("ours", "overlayfs"))) == set(snapshots)
    assert set(again.db.state.rows(CONTENT_TABLE, ("ours",))) == set(content)
    await again.metadata.snapshotter("ours", "overlayfs").prepare("another", chain[-1])
    await again.close()


async def test_a_name_that_the_manifest_tells(root: Root) -> None:
    await root.image("ours", two_layers(name="host/name:tag"))
    await root.close()
    database(root.path).write_bytes(b"garbage " * 2000)
    done, state = await root.rebuilt()
    assert set(state.rows(IMAGES, ("ours",))) == {"host/name:tag"}
    [aside] = database(root.path).parent.glob("meta.db.damaged-*")
    assert done.set_aside == str(aside) and aside.read_bytes() == b"garbage " * 2000


async def test_snapshots_that_lost_their_notes_or_parents_are_kept_by_themselves(root: Root) -> None:
    """And under no name by which something would be put on them."""
    chain = await root.image("ours", two_layers())
    await root.metadata.snapshotter("ours", "overlayfs").prepare("box", chain[-1])
    (root.path / "io.containerd.snapshotter.v1.overlayfs/snapshots/1/about").write_text("{")
    await root.close()
    database(root.path).unlink()
    _, state = await root.rebuilt()
    kept = {**state.rows(SNAPSHOTS, ("ours", "overlayfs")), **state.rows(SNAPSHOTS, ("default", "overlayfs"))}
    assert set(kept) == {"rebuilt/1", "rebuilt/2", "rebuilt/3"}
    assert all(each.info.kind == Kind.ACTIVE and not each.info.parent for each in kept.values())
    held = {resource.id for resource in state.rows(RESOURCES, ("ours", "rebuilt")).values()}
    assert {"rebuilt/2", "rebuilt/3"} <= held


async def test_a_backup_and_the_rest_of_the_damaged_file(root: Root) -> None:
    """Tables that can be read are taken as they are; of the others the backup's records, and what is newer over it."""
    image = two_layers()
    await root.image("ours", image)
    target = Descriptor(MANIFEST, Digest(image.digest), len(image.manifest))
    for name in ("old", "both"):
        await root.metadata.images("ours").create(Image(name, target, {"from": "backup"}))
    await root.db.write(
        lambda tx: [tx.put(CONTAINERS, ("ours",), f"c{n}", Container(f"c{n}", "r")) for n in range(200)]
    )
    backup = await Backups(root.db, database(root.path)).make()
    await root.metadata.images("ours").delete("old")
    await root.metadata.images("ours").create(Image("new", target, {"from": "file"}))
    await root.db.write(lambda tx: tx.put(CONTAINERS, ("ours",), "newer", Container("newer", "r")))
    uuid = root.db.uuid
    await root.close()

    path = database(root.path)
    data = bytearray(path.read_bytes())
    spot = data.index(b"c150") // 4096 * 4096
    data[spot : spot + 4096] = os.urandom(4096)
    path.write_bytes(data)
    done, state = await root.rebuilt()
    assert done.sources == [f"the backup {backup.name}", "the damaged database", "the disk"]
    assert set(state.rows(IMAGES, ("ours",))) == {"both", "new"}
    assert set(state.rows(CONTAINERS, ("ours",))) >= {f"c{n}" for n in range(200)}
    db = Database.open(path)
    assert db.uuid == uuid
    await db.close()


async def test_a_record_that_cannot_be_read_costs_itself_alone(root: Root) -> None:
    digest = await root.blob("ours", b"something")
    await root.db.write(lambda tx: tx.put(CONTAINERS, ("ours",), "good", Container("good", "r")))
    await root.db.write(lambda tx: tx.put(CONTAINERS, ("ours",), "bad", Container("bad", "r")))
    await root.close()
    connection = sqlite3.connect(database(root.path))
    connection.execute("UPDATE containers SET labels = 'no json' WHERE id = 'bad'")
    connection.commit()
    connection.close()
    assert read_records(root.path).problem is not None
    done, state = await root.rebuilt()
    assert set(state.rows(CONTAINERS, ("ours",))) == {"good"} and done.sources[0] == "the damaged database"
    info = state.get(CONTENT_TABLE, ("ours",), digest)
    assert isinstance(info, ContentInfo) and info.size == 9


async def test_stopped_at_any_point_it_can_be_begun_again(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the new file is there the old one is; what was set aside stays."""
    image = two_layers()
    await root.image("ours", image)
    await root.close()
    path = database(root.path)
    path.write_bytes(b"garbage " * 2000)
    for step in ("portside.doctor.rebuild._write", "portside.doctor.rebuild._set_aside", "pathlib.Path.rename"):
        with monkeypatch.context() as patch:

            def stop(*args: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(step, stop)
            with pytest.raises(KeyboardInterrupt):
                await rebuild(root.path, None, root.blobs, root.drivers)
        assert path.read_bytes() == b"garbage " * 2000
    await rebuild(root.path, None, root.blobs, root.drivers)
    state = read_records(root.path).state
    assert set(state.rows(CONTENT_TABLE, ("ours",))) == {image.digest, *image.blobs}
    assert {each.name.partition("-")[0] for each in path.parent.iterdir()} == {"meta.db", "meta.db.damaged"}


class Crash(BaseException):
    """The process ends here."""


def crash_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the ``step``-th change of a name, and all that follow, fail: what is on disk then is what a crash leaves."""
    count = 0

    def failing(call):
        def one(*args: object, **options: object) -> object:
            nonlocal count
            if any("meta.db" in str(arg) or ".new-" in str(arg) for arg in args):
                count += 1
                if count >= step:
                    raise Crash
            return call(*args, **options)

        return one

    for name in ("link", "rename", "unlink"):
        patch.setattr(os, name, failing(getattr(os, name)))


def bring_back(path: Path, files: dict[str, bytes]) -> None:
    for file in path.parent.glob("meta.db*"):
        file.unlink()
    for name, data in files.items():
        path.with_name(name).write_bytes(data)


def files_of(path: Path) -> dict[str, bytes]:
    """The database and what is beside it, a name without its time."""
    return {re.sub(r"-\d{8}T.*Z", "", each.name): each.read_bytes() for each in path.parent.glob("*") if each.is_file()}


async def with_a_wal(root: Root) -> tuple[Digest, dict[str, bytes]]:
    """A database of which the last that was committed is in the WAL alone, and content that it does not know."""
    unknown = await root.blob("ours", b"not recorded")
    await root.db.write(lambda tx: tx.put(CONTAINERS, ("ours",), "first", Container("first", "r")))
    await root.close()
    db, path = Database.open(database(root.path)), database(root.path)
    await db.write(lambda tx: tx.put(CONTAINERS, ("ours",), "in the WAL", Container("in the WAL", "r")))
    await db.write(lambda tx: tx.delete(CONTENT_TABLE, ("ours",), unknown))
    files = {name: path.with_name(name).read_bytes() for name in ("meta.db", "meta.db-wal")}
    await db.close()
    assert files["meta.db-wal"] and b"in the WAL" not in files["meta.db"]
    return unknown, files


async def test_a_crash_at_any_step_leaves_the_old_database_or_the_new_one(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown, files = await with_a_wal(root)
    path, seen, step, crashed = database(root.path), [], 0, True
    while crashed:
        step += 1
        bring_back(path, files)
        with monkeypatch.context() as patch:
            crash_at(step, patch)
            try:
                await rebuild(root.path, None, root.blobs, root.drivers)
                crashed = False
            except Crash:
                pass
        db = Database.open(path)
        assert set(db.state.rows(CONTAINERS, ("ours",))) == {"first", "in the WAL"}, step
        seen.append("new" if db.state.scopes(RESOURCES) else "old")
        await db.close()
        await rebuild(root.path, None, root.blobs, root.drivers)
        state = read_records(root.path).state
        assert set(state.rows(CONTAINERS, ("ours",))) == {"first", "in the WAL"}
        assert any(state.get(CONTENT_TABLE, scope, unknown) for scope in state.scopes(CONTENT_TABLE))
        assert not any(name.startswith(".new-") for name in files_of(path))
    assert seen == sorted(seen, reverse=True) and {*seen} == {"old", "new"} and len(seen) > 5


async def test_the_old_database_is_set_aside_with_its_wal(root: Root) -> None:
    _, files = await with_a_wal(root)
    bring_back(database(root.path), files)
    done = await rebuild(root.path, None, root.blobs, root.drivers)
    kept = files_of(database(root.path))
    assert done.set_aside
    assert (kept.pop("meta.db.damaged"), kept.pop("meta.db.damaged-wal")) == (files["meta.db"], files["meta.db-wal"])
    assert set(kept) == {"meta.db"}


@pytest.mark.parametrize("old", [b"garbage " * 2000, b"", None])
async def test_a_wal_whose_database_is_lost_is_not_taken_for_the_new_ones(root: Root, old: bytes | None) -> None:
    unknown, files = await with_a_wal(root)
    path = database(root.path)
    bring_back(path, {"meta.db-wal": files["meta.db-wal"]} | ({} if old is None else {"meta.db": old}))
    await rebuild(root.path, None, root.blobs, root.drivers)
    kept = files_of(path)
    assert kept["meta.db.damaged-wal"] == files["meta.db-wal"] and kept.get("meta.db.damaged") == old
    assert "meta.db-wal" not in kept
    db = Database.open(path)
    assert any(db.state.get(CONTENT_TABLE, scope, unknown) for scope in db.state.scopes(CONTENT_TABLE))
    await db.close()
