import os
import subprocess

import pytest

from portside.core.snapshots import Kind
from portside.snapshots.overlay import OverlayDriver, default_options, in_user_namespace, why_unsupported

NAMESPACE_ONE = "         0          0 4294967295\n"


def test_an_active_snapshot_with_parents_is_an_overlay_top_parent_first(tmp_path):
    driver = OverlayDriver(tmp_path, mount_options=["volatile"])
    for number in (1, 2):
        driver.create(number, Kind.ACTIVE, range(number - 1, 0, -1))
    driver.create(3, Kind.ACTIVE, (2, 1))
    (mount,) = driver.mounts(3, Kind.ACTIVE, (2, 1))
    assert (mount.type, mount.source) == ("overlay", "overlay")
    places = tmp_path / "snapshots"
    assert mount.options[-3:] == (
        f"workdir={places}/3/work", f"upperdir={places}/3/fs", f"lowerdir={places}/2/fs:{places}/1/fs",
    )  # fmt: skip
    assert "volatile" in mount.options
    assert os.path.isdir(places / "3" / "work")


def test_a_view_of_two_is_an_overlay_without_upper(tmp_path):
    driver = OverlayDriver(tmp_path)
    (mount,) = driver.mounts(3, Kind.VIEW, (2, 1))
    assert mount.type == "overlay"
    assert not any(option.startswith(("upperdir=", "workdir=")) for option in mount.options)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_the_kernel_takes_the_mounts(tmp_path):
    driver = OverlayDriver(tmp_path / "root")
    driver.create(1, Kind.ACTIVE, ())
    (driver.files(1) / "base").write_text("1")
    driver.create(2, Kind.ACTIVE, (1,))
    (mount,) = driver.mounts(2, Kind.ACTIVE, (1,))
    target = tmp_path / "mnt"
    target.mkdir()
    made = subprocess.run(["mount", "-t", "overlay", "-o", ",".join(mount.options), "overlay", target], check=False)
    if made.returncode:
        pytest.skip("this kernel or file system has no overlayfs")
    try:
        assert (target / "base").read_text() == "1"
        (target / "new").write_text("2")
    finally:
        subprocess.run(["umount", target], check=True)
    assert os.listdir(driver.files(2)) == ["new"]


def test_index_is_switched_off_where_the_kernel_knows_it(tmp_path):
    uid_map = tmp_path / "uid_map"
    uid_map.write_text(NAMESPACE_ONE)
    assert default_options(tmp_path, str(uid_map)) == ()
    (tmp_path / "index").touch()
    assert default_options(tmp_path, str(uid_map)) == ("index=off",)


def test_user_attributes_inside_a_user_namespace(tmp_path):
    uid_map = tmp_path / "uid_map"
    uid_map.write_text("0 100000 65536\n")
    assert default_options(tmp_path, str(uid_map)) == ("userxattr",)
    uid_map.write_text(NAMESPACE_ONE)
    assert not in_user_namespace(str(uid_map))
    assert not in_user_namespace(str(tmp_path / "missing"))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_whether_it_can_be_used_is_tried_out(tmp_path):
    (tmp_path / "on").mkdir()
    assert why_unsupported(tmp_path) == ""
    assert os.listdir(tmp_path) == ["on"]
    # An overlay is no place for the upper directory of another.
    driver = OverlayDriver(tmp_path / "root")
    for number, parents in ((1, ()), (2, (1,))):
        driver.create(number, Kind.ACTIVE, parents)
    (mount,) = driver.mounts(2, Kind.ACTIVE, (1,))
    subprocess.run(["mount", "-t", "overlay", "-o", ",".join(mount.options), "overlay", tmp_path / "on"], check=True)
    try:
        assert why_unsupported(tmp_path / "on") != ""
    finally:
        subprocess.run(["umount", tmp_path / "on"], check=True)
