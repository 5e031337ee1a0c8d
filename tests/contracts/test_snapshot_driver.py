"""What every snapshot driver must do (core/snapshots.SnapshotDriver)."""

import os
import stat
from pathlib import Path

import pytest

from portside.core.snapshots import Kind
from portside.errors import NotFound
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="changes owners and makes devices")]


@pytest.fixture(params=[OverlayDriver, NativeDriver], ids=lambda driver: driver.name)
def driver(request, tmp_path):
    return request.param(tmp_path / "root")


def source_of(mounts):
    (mount,) = mounts
    if mount.type == "bind":
        return Path(mount.source)
    return Path(next(option for option in mount.options if option.startswith("upperdir=")).removeprefix("upperdir="))


def test_an_active_snapshot_on_nothing_is_an_empty_writable_directory(driver):
    driver.create(1, Kind.ACTIVE, ())
    (mount,) = driver.mounts(1, Kind.ACTIVE, ())
    assert (mount.type, mount.target) == ("bind", "")
    assert "rw" in mount.options and "rbind" in mount.options
    assert os.listdir(mount.source) == []
    assert stat.S_IMODE(os.stat(mount.source).st_mode) == 0o755


def test_a_view_is_read_only(driver):
    driver.create(1, Kind.ACTIVE, ())
    driver.commit(1, sync=False)
    driver.create(2, Kind.VIEW, (1,))
    (mount,) = driver.mounts(2, Kind.VIEW, (1,))
    assert "ro" in mount.options and "rw" not in mount.options
    assert mount.source == str(driver.files(1))


def test_a_view_of_nothing_is_empty_and_read_only(driver):
    driver.create(1, Kind.VIEW, ())
    (mount,) = driver.mounts(1, Kind.VIEW, ())
    assert os.listdir(mount.source) == [] and "ro" in mount.options


def test_the_root_directory_has_the_parents_mode_and_owner(driver):
    driver.create(1, Kind.ACTIVE, ())
    root = driver.files(1)
    os.chown(root, 123, 456)
    root.chmod(0o1777)
    driver.create(2, Kind.ACTIVE, (1,))
    status = os.stat(source_of(driver.mounts(2, Kind.ACTIVE, (1,))))
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (123, 456, 0o1777)


def test_umask_does_not_matter(driver):
    before = os.umask(0o077)
    try:
        driver.create(1, Kind.ACTIVE, ())
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(driver.files(1)).st_mode) == 0o755


def test_only_root_may_enter(driver):
    driver.create(1, Kind.ACTIVE, ())
    for path in (driver.root, driver.root / "snapshots", driver.root / "removed", driver.files(1).parent):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700, path


def test_looser_modes_that_were_there_before_are_tightened(driver):
    driver.root.chmod(0o755)
    type(driver)(driver.root)
    assert stat.S_IMODE(os.stat(driver.root).st_mode) == 0o700


def test_usage_counts_an_inode_with_two_names_once(driver):
    driver.create(1, Kind.ACTIVE, ())
    root = driver.files(1)
    before = driver.usage(1)
    (root / "a").write_bytes(b"x" * 100_000)
    one = driver.usage(1)
    os.link(root / "a", root / "b")
    assert driver.usage(1) == one
    assert one.inodes == before.inodes + 1 == 2
    assert before.size + 100_000 <= one.size < before.size + 200_000


def test_usage_counts_blocks_not_lengths(driver):
    driver.create(1, Kind.ACTIVE, ())
    with open(driver.files(1) / "hole", "wb") as file:
        file.truncate(1 << 40)
    assert driver.usage(1).size < 1 << 20


def test_usage_does_not_follow_links(driver, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "large").write_bytes(b"x" * 1_000_000)
    driver.create(1, Kind.ACTIVE, ())
    (driver.files(1) / "link").symlink_to(tmp_path / "outside")
    assert driver.usage(1).size < 1_000_000
    assert driver.usage(1).inodes == 2


def test_usage_and_commit_of_a_missing_snapshot_are_not_found(driver):
    with pytest.raises(NotFound, match="snapshot 9"):
        driver.usage(9)
    with pytest.raises(NotFound, match="snapshot 9"):
        driver.commit(9, sync=True)


def test_commit_returns_the_usage_with_and_without_sync(driver):
    driver.create(1, Kind.ACTIVE, ())
    (driver.files(1) / "a").write_bytes(b"x" * 5000)
    assert driver.commit(1, sync=True) == driver.commit(1, sync=False) == driver.usage(1)


def test_removal_is_a_rename_and_sweep_deletes(driver):
    driver.create(1, Kind.ACTIVE, ())
    (driver.files(1) / "d").mkdir()
    (driver.files(1) / "d" / "f").write_text("x")
    driver.remove(1)
    assert driver.ids() == []
    assert os.listdir(driver.root / "removed") != []
    driver.sweep()
    assert os.listdir(driver.root / "removed") == []


def test_removing_what_is_missing_is_fine(driver):
    driver.remove(5)
    driver.sweep()


def test_sweep_leaves_what_links_point_at(driver, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    driver.create(1, Kind.ACTIVE, ())
    (driver.files(1) / "link").symlink_to(outside)
    driver.remove(1)
    driver.sweep()
    assert (outside / "precious").read_text() == "x"


def test_a_leftover_with_the_same_number_is_replaced(driver):
    driver.create(1, Kind.ACTIVE, ())
    (driver.files(1) / "old").write_text("x")
    driver.create(1, Kind.ACTIVE, ())
    assert os.listdir(driver.files(1)) == []


def test_what_a_crash_left_half_made_is_not_a_snapshot_and_goes_away(driver):
    driver.create(1, Kind.ACTIVE, ())
    (driver.root / "snapshots" / "new-2" / "fs").mkdir(parents=True)
    again = type(driver)(driver.root)
    assert again.ids() == [1]
    again.sweep()
    assert os.listdir(driver.root / "snapshots") == ["1"]


def test_ids_are_numbers_in_order(driver):
    for number in (10, 9, 2):
        driver.create(number, Kind.ACTIVE, ())
    assert driver.ids() == [2, 9, 10]


def test_a_number_removed_twice_over_can_wait_for_the_sweep_together(driver):
    for _ in range(3):
        driver.create(1, Kind.ACTIVE, ())
        driver.remove(1)
    assert len(os.listdir(driver.root / "removed")) == 3
    reopened = type(driver)(driver.root)
    reopened.create(1, Kind.ACTIVE, ())
    reopened.remove(1)
    assert len(os.listdir(driver.root / "removed")) == 4
