import os
import socket
import stat

import pytest

from portside.core.snapshots import Kind
from portside.snapshots.native import NativeDriver

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="makes devices")]


@pytest.fixture
def pair(tmp_path):
    """A parent to fill, and what makes its copy."""
    driver = NativeDriver(tmp_path / "root")
    driver.create(1, Kind.ACTIVE, ())

    def copy():
        driver.create(2, Kind.ACTIVE, (1,))
        return driver.files(2)

    return driver.files(1), copy


def test_a_copy_has_everything(pair):
    parent, copy = pair
    (parent / "dir").mkdir(mode=0o2750)
    (parent / "dir" / "file").write_bytes(b"data" * 10_000)
    os.chown(parent / "dir" / "file", 12, 34)
    (parent / "dir" / "file").chmod(0o4711)
    os.setxattr(parent / "dir" / "file", "user.note", b"\0binary")
    os.utime(parent / "dir" / "file", ns=(111, 222_333_444_555))
    (parent / "link").symlink_to("/nowhere")
    os.chown(parent / "link", 5, 6, follow_symlinks=False)
    os.mkfifo(parent / "fifo", 0o640)
    os.mknod(parent / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.utime(parent / "dir", ns=(1, 1_000_000_007))
    files = copy()
    for path in ("dir", "dir/file", "link", "fifo", "null"):
        old, new = os.lstat(parent / path), os.lstat(files / path)
        for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_rdev"):
            assert getattr(old, field) == getattr(new, field), (path, field)
    assert (files / "dir" / "file").read_bytes() == b"data" * 10_000
    assert os.getxattr(files / "dir" / "file", "user.note") == b"\0binary"
    assert os.readlink(files / "link") == "/nowhere"


def test_the_copy_is_independent(pair):
    parent, copy = pair
    (parent / "f").write_text("old")
    files = copy()
    (files / "f").write_text("new")
    assert (parent / "f").read_text() == "old"


def test_hard_links_stay_together(pair):
    parent, copy = pair
    (parent / "a").write_text("x")
    (parent / "d").mkdir()
    os.link(parent / "a", parent / "d" / "b")
    files = copy()
    assert os.stat(files / "a").st_ino == os.stat(files / "d" / "b").st_ino
    assert os.stat(files / "a").st_nlink == 2


def test_holes_stay_holes(pair):
    parent, copy = pair
    with open(parent / "f", "wb") as file:
        file.write(b"begin")
        file.seek(50 << 20)
        file.write(b"middle")
        file.truncate(100 << 20)
    new = copy() / "f"
    status = os.stat(new)
    assert status.st_size == 100 << 20 and status.st_blocks * 512 < 1 << 20
    with open(new, "rb") as file:
        assert file.read(5) == b"begin"
        file.seek(50 << 20)
        assert file.read(7) == b"middle\0"


def test_sockets_are_left_out(pair):
    parent, copy = pair
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(parent)
        try:
            listener.bind("s")
        finally:
            os.chdir(here)
    assert os.listdir(copy()) == []


def test_strange_names(pair):
    parent, copy = pair
    name = os.fsencode(parent) + b"/\xff\n name"
    with open(name, "wb"):
        pass
    assert os.listdir(os.fsencode(copy())) == [b"\xff\n name"]
