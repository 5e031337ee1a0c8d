"""``portside doctor`` on the root of a real daemon: beside it, after it, and after everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from portside.linux.cgroups import Cgroup
from portside.shim.record import start_time
from tests.support import images
from tests.support.peers import Daemon, need_root, run, stop, wait_for

pytestmark = pytest.mark.root
CONTENT = "io.containerd.content.v1.content/blobs/sha256"
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"
DATABASE = "io.containerd.metadata.v1.sqlite/meta.db"


def doctor(daemon: Daemon, *options: str):
    """Its status and its report."""
    command = [sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(daemon.root)]
    result = run(*command, "--state", str(daemon.state), "--json", *options, check=False)
    assert result.returncode in (0, 1), result.stderr
    return result.returncode, json.loads(result.stdout)


def kinds(report) -> list[str]:
    return sorted(finding["kind"] for finding in report["findings"])


def owners(report) -> dict[str, str]:
    return {f"{owner['kind']} {owner['name']}": owner["bytes"] for owner in report["owners"]}


@pytest.fixture
def two_layers(registry: str) -> str:
    """An image with a second layer, which changes the first."""
    second = {"etc/motd": b"hello\n", "etc/.wh.group": b"", "root/.wh..wh..opq": b"", "root/new": b"n" * 5000}
    image = images.make_image([images.tar_layer(images.busybox_files()), images.tar_layer(second)])
    return images.push(registry, "test/doctor", "two", image)


@pytest.fixture
def daemon(tmp_path: Path, two_layers: str):
    """One with an image and a container that has ended; it runs."""
    need_root()
    daemon = Daemon(tmp_path)
    daemon.start()
    daemon.portside("pull", two_layers)
    daemon.portside("run", "--name", "box", two_layers, "sh", "-c", "echo mine >/root/file")
    yield daemon
    daemon.stop()


def layer_places(daemon: Daemon) -> list[Path]:
    """The directories of the layers, lowest first."""
    found = []
    for about in sorted((daemon.root / SNAPSHOTS).glob("*/about"), key=lambda path: int(path.parent.name)):
        if json.loads(about.read_text())["kind"] == 3:
            found.append(about.parent)
    return found


def test_a_sound_root(daemon: Daemon, two_layers: str) -> None:
    """Beside the daemon and without it: all is explained, verified, and nothing is wrong or changed."""
    daemon.ctr("-n", "other", "images", "pull", "--plain-http", "--snapshotter", "native", two_layers)
    status, report = doctor(daemon, "--verify")
    assert (status, report["findings"], report["running"], report["notes"]) == (0, [], True, [])
    assert report["verified"]["layers"] == 4 and report["verified"]["blobs"] == 4
    refused = run(
        sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(daemon.root), "--repair", check=False
    )
    assert refused.returncode == 2 and "stop its daemon first" in refused.stderr
    daemon.stop()

    before = sorted(path for path in daemon.root.rglob("*"))
    status, report = doctor(daemon, "--verify")
    assert (status, report["findings"], report["running"]) == (0, [], False)
    assert sorted(path for path in daemon.root.rglob("*")) == before
    known = owners(report)
    assert {f"image default/{two_layers}", f"image other/{two_layers}", "metadata database"} <= set(known)
    names = {name.partition(" ")[0] for name in known}
    assert {"container", "image", "log", "cache", "metadata", "layout"} <= names
    assert names.isdisjoint({"orphan", "foreign", "namespace"})
    measured = subprocess.run(["du", "-s", "--block-size=1", daemon.root], capture_output=True, text=True, check=True)
    assert report["bytes"] == int(measured.stdout.split()[0])
    text = run(sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(daemon.root)).stdout
    assert "nothing is wrong" in text and two_layers in text


def test_orphans_of_every_kind(daemon: Daemon) -> None:
    daemon.stop()
    root = daemon.root
    blob = b"nobody's"
    (root / CONTENT / images.sha256(blob).removeprefix("sha256:")).write_bytes(blob)
    (root / SNAPSHOTS / "77" / "fs").mkdir(parents=True)
    (root / SNAPSHOTS / "new-78").mkdir()
    (root / "io.containerd.content.v1.content/ingest" / ("ab" * 32)).mkdir()
    (root / "io.portside.verbs.v1.logs/default/gone").mkdir()
    (root / "io.containerd.runtime.v2.task/default/gone").mkdir()
    (root / ".doctor-x").mkdir()
    bundle = daemon.state / "io.containerd.runtime.v2.task/default/dead"
    (bundle / "rootfs").mkdir(parents=True)
    (bundle / "work").symlink_to(root / "io.containerd.runtime.v2.task/default/dead")
    run("mount", "-t", "tmpfs", "none", str(bundle / "rootfs"))
    activation = daemon.state / "io.containerd.mount-manager.v1.sqlite/t/99/000"
    activation.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "none", str(activation))
    try:
        status, report = doctor(daemon)
        expected = ["blob", "bundle", "ingest", "log", "mount", "mount", "scratch", "snapshot", "snapshot", "work"]
        assert status == 1 and kinds(report) == [f"orphan {name}" for name in expected]
        status, report = doctor(daemon, "--repair")
        assert (status, report["findings"], report["failed"]) == (0, [], [])
        assert len(report["repaired"]) == len(expected)
    finally:
        subprocess.run(["umount", "-q", str(bundle / "rootfs"), str(activation)], check=False)
    assert not bundle.exists() and not (root / SNAPSHOTS / "77").exists()
    status, report = doctor(daemon, "--verify")
    assert (status, report["findings"]) == (0, [])


def test_content_is_fetched_and_layers_are_unpacked_again(daemon: Daemon, two_layers: str) -> None:
    daemon.stop()
    content = sorted((daemon.root / CONTENT).iterdir(), key=lambda path: path.stat().st_size)
    gone, bent = content[0], content[-1]
    gone.unlink()
    data = bytearray(bent.read_bytes())
    data[len(data) // 2] ^= 1
    bent.chmod(0o644)
    bent.write_bytes(data)
    low, high = layer_places(daemon)
    (low / "fs/bin/busybox").write_bytes(b"evil")
    shutil.rmtree(high)

    status, report = doctor(daemon, "--verify")
    assert status == 1 and {"corrupt blob", "missing blob", "missing snapshot"} <= set(kinds(report))
    status, report = doctor(daemon, "--verify", "--repair")
    assert report["failed"] == [] and report["findings"] == []
    text = "\n".join(report["repaired"])
    assert f"fetched blob sha256:{gone.name} from {two_layers.rpartition(':')[0]}" in text and bent.name in text
    status, report = doctor(daemon, "--verify", "--repair")  # what only now could be compared
    assert status == 0
    status, report = doctor(daemon, "--verify")
    assert (status, report["findings"], report["notes"]) == (0, [], [])
    assert report["verified"]["layers"] == 2

    daemon.start()
    assert daemon.portside("run", "--rm", two_layers, "cat", "/etc/motd").stdout == "hello\n"


def test_what_cannot_be_had_again(daemon: Daemon, two_layers: str, registry: str) -> None:
    """The record goes, so that a pull brings the blob back; a container's own files are not invented."""
    daemon.stop()
    layer = max((daemon.root / CONTENT).iterdir(), key=lambda path: path.stat().st_size)
    with sqlite3.connect(daemon.root / DATABASE) as connection:
        connection.execute("UPDATE images SET name = '127.0.0.1:1/nobody/here:latest'")
        connection.execute("UPDATE content SET labels = '{}' WHERE digest = ?", (f"sha256:{layer.name}",))
    connection.close()
    layer.unlink()
    own = next(
        path.parent for path in (daemon.root / SNAPSHOTS).glob("*/about") if json.loads(path.read_text())["kind"] == 2
    )
    shutil.rmtree(own)
    status, report = doctor(daemon, "--repair")
    assert status == 1 and len(report["failed"]) == 2
    assert any(line.startswith(f"fetch blob sha256:{layer.name}") for line in report["failed"])
    assert kinds(report) == ["broken container"]
    daemon.start()
    daemon.portside("pull", two_layers)
    assert layer.exists()
    daemon.portside("rm", "box")
    daemon.portside("run", "--rm", two_layers, "true")


def damage_truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_garbage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(0)
        file.write(os.urandom(8192))


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_garbage, damage_empty, damage_remove])
def test_a_lost_database_is_made_again(daemon: Daemon, two_layers: str, damage) -> None:
    """Refused by the daemon with the file's name and what to do; then all that the disk knows is there again."""
    alive = daemon.portside("run", "-d", two_layers, "sleep", "1000").stdout.strip()
    assert daemon.process is not None
    stop(daemon.process)
    path = daemon.root / DATABASE
    damage(path)
    command = [
        sys.executable,
        "-m",
        "portside.cli.main",
        "daemon",
        "--root",
        str(daemon.root),
        "--state",
        str(daemon.state),
    ]
    refused = run(*command, check=False)
    assert refused.returncode != 0 and str(path) in refused.stderr and "portside doctor --repair" in refused.stderr

    status, report = doctor(daemon)
    assert status == 1 and [kind for kind in kinds(report) if kind.endswith(" metadata")]
    status, report = doctor(daemon, "--repair")
    assert report["failed"] == [], report
    assert any(line.startswith("rebuilt the metadata from") for line in report["repaired"])
    status, report = doctor(daemon, "--verify")
    assert report["verified"]["layers"] == 2 and kinds(report) == [], report

    daemon.start()
    listed = daemon.portside("images").stdout
    assert "rebuilt/sha256:" in listed or two_layers in listed
    name = next(line.split()[0] for line in listed.splitlines() if "rebuilt/" in line or two_layers in line)
    assert daemon.portside("run", "--rm", name, "cat", "/etc/motd").stdout == "hello\n"
    assert daemon.portside("exec", alive, "echo", "still here").stdout == "still here\n"
    daemon.portside("rm", "-f", alive)


def test_the_newest_backup_is_used(daemon: Daemon, two_layers: str, tmp_path: Path) -> None:
    """With it names and labels come back, too."""
    daemon.ctr("images", "label", two_layers, "color=blue")
    daemon.stop()
    path = daemon.root / DATABASE
    code = f"""
import asyncio
from pathlib import Path
from portside.metadata.backups import Backups
from portside.metadata.database import Database
async def main():
    db = Database.open(Path({str(path)!r}))
    print(await Backups(db, Path({str(path)!r})).make())
    await db.close()
asyncio.run(main())
"""
    backup = run(sys.executable, "-c", code).stdout.strip()
    damage_garbage(path)
    status, report = doctor(daemon, "--repair")
    assert (status, report["failed"]) == (0, [])
    assert Path(backup).name in report["repaired"][0]
    daemon.start()
    assert "color=blue" in daemon.ctr("images", "ls").stdout
    assert "box" in daemon.portside("ps", "-a").stdout


def test_a_newer_database_is_left_alone(daemon: Daemon) -> None:
    daemon.stop()
    path = daemon.root / DATABASE
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    command = [sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(daemon.root), "--repair"]
    refused = run(*command, check=False)
    assert refused.returncode == 2 and "newer portside" in refused.stderr and str(path) in refused.stderr
    assert path.read_bytes() == before


def test_places_that_are_no_root(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o755)
    for place in (tmp_path / "x", tmp_path / "nowhere"):
        result = run(sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(place), check=False)
        assert result.returncode == 2 and "not a root of portside" in result.stderr
    assert list((tmp_path / "x").iterdir()) == [] and (tmp_path / "x").stat().st_mode & 0o777 == 0o755


def test_containerds_own_root_is_not_touched(tmp_path: Path) -> None:
    for name in ("io.containerd.metadata.v1.bolt", "io.containerd.content.v1.content/blobs/sha256"):
        (tmp_path / "c" / name).mkdir(parents=True)
    command = [sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(tmp_path / "c"), "--repair"]
    refused = run(*command, check=False)
    assert refused.returncode == 2 and "portside migrate --from" in refused.stderr
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_state_directory_of_another_root(daemon: Daemon, tmp_path: Path) -> None:
    """Is not touched, nor is the configured one taken for that of a root elsewhere."""
    daemon.stop()
    bundle = daemon.state / "io.containerd.runtime.v2.task/default/theirs"
    bundle.mkdir(parents=True)
    (bundle / "work").symlink_to("/elsewhere/io.containerd.runtime.v2.task/default/theirs")
    status, report = doctor(daemon, "--repair")
    assert status == 0 and bundle.is_dir()
    assert any("is of another root" in note for note in report["notes"])
    text = run(sys.executable, "-m", "portside.cli.main", "doctor", "--root", str(daemon.root)).stdout
    assert "no state directory was given" in text


def test_what_a_dead_container_leaves_outside_the_root(daemon: Daemon, two_layers: str) -> None:
    """Its shim and its processes are dead, its record is gone: bundle, socket, control group."""
    id = daemon.portside("run", "-d", two_layers, "sleep", "1000").stdout.strip()
    bundle = daemon.state / "io.containerd.runtime.v2.task/default" / id
    record = json.loads((bundle / "state.json").read_text())
    address = Path((bundle / "address").read_text().strip().removeprefix("unix://"))
    daemon.kill()
    with sqlite3.connect(daemon.root / DATABASE) as connection:
        connection.execute("DELETE FROM containers WHERE id = ?", (id,))
    connection.close()
    status, report = doctor(daemon)
    assert status == 1 and "task without container" in kinds(report)
    (daemon.root / SNAPSHOTS / "77/fs").mkdir(parents=True)
    status, report = doctor(daemon, "--repair")
    assert status == 1 and bundle.is_dir(), "what runs is not killed"
    assert kinds(report) == ["orphan snapshot", "task without container"], "nor is what it may stand on taken away"

    pids = [record["shim"]["pid"], *(process["pid"] for process in record["processes"].values())]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(start_time, pids)), "the container to die")
    group = Cgroup.open(record["cgroup"])
    assert group.exists()
    status, report = doctor(daemon)
    assert status == 1 and {"orphan bundle", "orphan cgroup"} <= set(kinds(report))
    status, report = doctor(daemon, "--repair")
    assert (status, report["findings"], report["failed"]) == (0, [], [])
    assert not bundle.exists() and not address.exists() and not group.exists()
