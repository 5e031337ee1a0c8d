"""Taking over, step by step: what is planned, what is left out and why, what an interrupted one leaves."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from portside.core.plugin import CONTENT, SNAPSHOTTER
from portside.doctor.examine import examine
from portside.doctor.records import database, read_records
from portside.doctor.takeover import dry_run, make_plan, take_over
from portside.doctor.upstream import read
from portside.engine.ownership import RootLock, RootLocked
from portside.errors import InvalidArgument
from portside.metadata.schema import CONTAINERS, IMAGES, LEASES, NAMESPACES, SANDBOXES, SNAPSHOTS
from portside.metadata.schema import CONTENT as CONTENT_TABLE
from portside.metadata.state import State
from tests.doctor.test_upstream import TIMES, make, namespace, number

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")
BLOB = b"b" * 300
DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A root with all kinds of records, one blob, two snapshots."""
    content = namespace()
    content[b"content"][b"blob"] = {
        DIGEST.encode(): {**TIMES, b"size": number(300)},
        b"sha256:" + b"cd" * 32: {**TIMES, b"size": number(5)},
    }
    content[b"snapshots"][b"overlayfs"][b"orphan"] = {**TIMES, b"name": b"ns/2/box", b"parent": b"nobody"}
    content[b"containers"][b"../evil"] = content[b"containers"][b"box"]
    content[b"containers"][b"kata"] = {
        **content[b"containers"][b"box"],
        b"runtime": {b"name": b"io.containerd.kata.v2"},
    }
    root = make(tmp_path / "old/root", {b"v1": {b"version": number(3), b"ns": content}})
    blob = root / "io.containerd.content.v1.content/blobs/sha256" / DIGEST.removeprefix("sha256:")
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BLOB)
    for id, name in (("1", "base"), ("300", "box")):
        place = root / "io.containerd.snapshotter.v1.overlayfs/snapshots" / id
        (place / "fs").mkdir(parents=True)
        (place / "work").mkdir()
        (place / "fs" / name).write_bytes(name.encode())
    os.mknod(root / "io.containerd.snapshotter.v1.overlayfs/snapshots/300/fs/whiteout", 0o20000, 0)
    return root


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "old/state"


def is_same(one: Path, two: Path) -> bool:
    return os.path.samefile(one, two)


def test_a_plan_changes_nothing(source: Path, state: Path, tmp_path: Path) -> None:
    plan = dry_run(source, state, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert plan.counts == {
        "namespaces": 1, "content": 1, "images": 1, "containers": 2, "sandboxes": 1, "leases": 1, "resources": 2,
        "snapshots": 2,
    }  # fmt: skip
    told = "\n".join(plan.left_out)
    assert "blob ns/sha256:cdcd" in told and "missing or not of the 5 bytes recorded" in told
    assert "snapshot ns/overlayfs/orphan: its parent nobody is not there" in told
    assert "container ns/../evil: " in told
    assert plan.notes == ["container ns/kata: taken, but its runtime 'io.containerd.kata.v2' needs a shim of its own"]
    assert [each.info.name for each in plan.snapshots] == ["base", "box"]


@pytest.mark.parametrize("copy", [False, True])
async def test_it_is_all_there(source: Path, state: Path, tmp_path: Path, copy: bool) -> None:
    root = tmp_path / "new"
    outcome = await take_over(source, state, root, copy=copy)
    found = read_records(root).state
    for table, keys in (
        (IMAGES, {"host/name:tag"}), (CONTAINERS, {"box", "kata"}), (SANDBOXES, {"pod"}), (LEASES, {"mine"}),
        (CONTENT_TABLE, {DIGEST}),
    ):  # fmt: skip
        assert set(found.rows(table, ("ns",))) == keys
    assert found.get(NAMESPACES, (), "ns") == {"team": "a"}
    snapshots = found.rows(SNAPSHOTS, ("ns", "overlayfs"))
    assert set(snapshots) == {"base", "box"} and snapshots["box"].info.parent == "base"
    places = {name: root / f"{SNAPSHOTTER}.overlayfs/snapshots" / str(snapshots[name].number) for name in snapshots}
    assert (places["base"] / "fs/base").read_bytes() == b"base"
    assert (places["box"] / "fs/whiteout").lstat().st_rdev == 0 and (places["box"] / "work").is_dir()
    old = source / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    assert is_same(old / "1/fs/base", places["base"] / "fs/base") != copy
    assert not is_same(old / "300/fs/box", places["box"] / "fs/box"), "an active snapshot is still written to"
    blob = root / f"{CONTENT}.content/blobs/sha256" / DIGEST.removeprefix("sha256:")
    assert blob.read_bytes() == BLOB and (outcome.linked, outcome.copied) == ((0, 1) if copy else (1, 0))
    report = await examine(root, tmp_path / "newstate", verify=True)
    assert [(finding.kind, finding.name) for finding in report.findings] == [], report.findings


async def test_an_interrupted_one_can_be_run_again(source: Path, state: Path, tmp_path: Path) -> None:
    """Nothing is recorded before all is there; what was begun is no one's, and does not stand in the way."""
    root = tmp_path / "new"

    def stop(what: str) -> None:
        if what == "snapshot ns/overlayfs/box":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await take_over(source, state, root, progress=stop)
    assert not list(read_records(root).state.scopes(CONTAINERS))
    await take_over(source, state, root)
    report = await examine(root, tmp_path / "newstate")
    assert [(finding.kind, finding.name) for finding in report.findings] == [("orphan snapshot", "overlayfs/1")]
    report = await examine(root, tmp_path / "newstate", repair=True)
    assert report.findings == [] and report.failed == []


async def test_what_is_there_stays(source: Path, state: Path, tmp_path: Path) -> None:
    root = tmp_path / "new"
    await take_over(source, state, root)
    plan = make_plan(read(source), read_records(root).state)
    assert plan.counts == {} and plan.there == 9 and plan.blobs == {}
    before = database(root).read_bytes()
    await take_over(source, state, root)
    assert read_records(root).state.rows(SNAPSHOTS, ("ns", "overlayfs")).keys() == {"base", "box"}
    assert len(before) == len(database(root).read_bytes())


async def test_refusals(source: Path, state: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="into itself"):
        await take_over(source, state, source)
    lock = RootLock(tmp_path / "new", "/run/x.sock")
    with pytest.raises(RootLocked, match=r"serves on /run/x\.sock"):
        await take_over(source, state, tmp_path / "new")
    lock.close()
    assert make_plan(read(source), State()).there == 0
