"""Two trees, compared: each kind of difference is told, and what is not a difference is not."""

from __future__ import annotations

import os

import pytest

from portside.doctor.trees import differences
from portside.snapshots.copying import copy_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices")


def make(root):
    root.mkdir()
    (root / "dir").mkdir()
    (root / "dir/file").write_bytes(b"content")
    (root / "link").symlink_to("dir/file")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.mknod(root / "gone", 0o20000, os.makedev(0, 0))
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def trees(tmp_path):
    one, two = make(tmp_path / "one"), tmp_path / "two"
    two.mkdir()
    copy_tree(str(one), str(two))
    return one, two


def compare(trees):
    one, two = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in trees)
    try:
        return list(differences(one, two))
    finally:
        os.close(one)
        os.close(two)


def test_the_same(trees):
    assert compare(trees) == []
    os.utime(trees[1] / "dir", (1, 1))
    os.chmod(trees[1], 0o700)
    os.chmod(trees[1] / "gone", 0o600)
    os.setxattr(trees[1] / "dir", "trusted.overlay.origin", b"x")
    assert compare(trees) == []


def rewrite(path):
    status = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_link(path):
    status = path.lstat()
    path.unlink()
    path.symlink_to("elsewhere")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def replace_device(path):
    status = path.lstat()
    path.unlink()
    os.mknod(path, status.st_mode, os.makedev(1, 5))
    os.chmod(path, status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: rewrite(root / "dir/file"), "/dir/file has other content"),
        (lambda root: (root / "dir/file").unlink(), "/dir/file is missing"),
        (lambda root: (root / "dir/more").touch(), "/dir/more is not in the layer"),
        (lambda root: (root / "dir/file").chmod(0o4755), "/dir/file has another mode or owner"),
        (lambda root: os.chown(root / "link", 5, 5, follow_symlinks=False), "/link has another mode or owner"),
        (lambda root: os.utime(root / "fifo", (1, 1)), "/fifo has another time"),
        (lambda root: os.setxattr(root / "dir", "trusted.overlay.opaque", b"y"), "/dir has other extended attributes"),
        (lambda root: replace_link(root / "link"), "/link points elsewhere"),
        (lambda root: replace_device(root / "null"), "/null is another device"),
        (lambda root: (root / "fifo").unlink() or (root / "fifo").mkdir(), "/fifo is of another kind"),
    ],
)
def test_a_difference_is_told(trees, change, told):
    change(trees[1])
    assert compare(trees) == [told]
