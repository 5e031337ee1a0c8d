"""Opening paths in trees that others control."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.linux.fd import O_PATH
from portside.linux.openat2 import (
    RESOLVE_NO_SYMLINKS,
    find_in_root,
    make_directories,
    make_file,
    make_parent,
    open_in_root,
    open_plain,
    openat2,
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def where(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


def test_links_and_dots_stay_inside(tmp_path: Path, root: int) -> None:
    inside = tmp_path / "root"
    (inside / "etc").mkdir()
    (inside / "etc/file").touch()
    (inside / "abs").symlink_to("/etc")
    (inside / "up").symlink_to("../../../../../etc")
    for path in ("etc/file", "/etc/file", "abs/file", "/up/file", "../../etc/file", "/../etc/./file"):
        assert where(open_in_root(root, path)) == f"{inside}/etc/file"


def test_links_of_proc_are_refused(root: int, tmp_path: Path) -> None:
    proc = os.open("/proc", O_PATH)
    try:
        with pytest.raises(OSError) as caught:
            open_in_root(proc, "self/root/etc")
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(proc)


def test_plain_paths(tmp_path: Path, root: int) -> None:
    inside = tmp_path / "root"
    (inside / "a/b").mkdir(parents=True)
    (inside / "link").symlink_to("a")
    assert where(open_plain(root, "/a/b")) == f"{inside}/a/b"
    assert where(open_plain(root, "/")) == str(inside)
    for path in ("link/b", "link"):
        with pytest.raises(OSError) as caught:
            open_plain(root, path)
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError):
        open_plain(root, "../x")


def test_finding_without_an_exception(tmp_path: Path, root: int) -> None:
    (tmp_path / "root/file").touch()
    assert find_in_root(root, "nothing") == find_in_root(root, "file/below") == -1
    os.close(find_in_root(root, "file"))
    (tmp_path / "root/loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        find_in_root(root, "loop")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("path", ["a", "/a/b/c", "link/new/deep", "dangling", "dangling/more", "up/x", "a/../b/./c/"])
def test_directories_are_made_inside(tmp_path: Path, root: int, path: str) -> None:
    inside, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (inside / "real").mkdir()
    (inside / "link").symlink_to("/real")
    (inside / "dangling").symlink_to(str(outside / "../outside/made"))
    (inside / "up").symlink_to("../../outside")
    made = where(make_directories(root, path))
    assert made.startswith(f"{inside}/")
    assert os.path.isdir(made)
    assert not list(outside.iterdir())
    assert where(make_directories(root, path)) == made


def test_modes_ignore_the_umask_and_keep_the_group_bit(tmp_path: Path, root: int) -> None:
    (tmp_path / "root/shared").mkdir()
    (tmp_path / "root/shared").chmod(0o2775)
    old = os.umask(0o077)
    try:
        os.close(make_directories(root, "shared/a/b", 0o755))
        os.close(make_file(root, "shared/c/file", 0o600))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "root/shared/a/b").stat().st_mode) & 0o777 == 0o755
    assert (tmp_path / "root/shared/a").stat().st_mode & stat.S_ISGID
    assert stat.S_IMODE((tmp_path / "root/shared/c/file").stat().st_mode) == 0o600


def test_files_are_made_inside(tmp_path: Path, root: int) -> None:
    inside = tmp_path / "root"
    (tmp_path / "victim").write_text("untouched")
    (inside / "link").symlink_to(str(tmp_path / "victim"))
    assert where(make_file(root, "x/y/file")) == f"{inside}/x/y/file"
    made = where(make_file(root, "link"))
    assert made.startswith(f"{inside}/") and os.path.isfile(made)
    assert (tmp_path / "victim").read_text() == "untouched"


def test_files_in_the_way(tmp_path: Path, root: int) -> None:
    (tmp_path / "root/file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(NotADirectoryError):
            make_directories(root, path)


def test_loops_end(tmp_path: Path, root: int) -> None:
    (tmp_path / "root/one").symlink_to("two")
    (tmp_path / "root/two").symlink_to("one")
    for make in (make_directories, make_file):
        with pytest.raises(OSError) as caught:
            os.close(make(root, "one/x"))
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError):
        make_parent(root, "one")


def test_what_is_opened_closes_on_exec(root: int) -> None:
    fd = openat2(root, ".", os.O_RDONLY, 0, RESOLVE_NO_SYMLINKS)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_tree_that_moves_under_us(tmp_path: Path, root: int) -> None:
    """A swapped component never leads out: each opened directory is inside, whatever the moment."""
    inside, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    (inside / "vol/a").mkdir(parents=True)
    (inside / "vol/b").symlink_to("../../outside")
    child = os.fork()
    if child == 0:
        try:
            for _ in range(1500):
                os.rename(inside / "vol/a", inside / "vol/t")
                os.rename(inside / "vol/b", inside / "vol/a")
                os.rename(inside / "vol/t", inside / "vol/b")
        finally:
            os._exit(0)
    try:
        for _ in range(150):
            try:
                fd = make_directories(root, "vol/a/x")
            except OSError:
                continue
            assert os.readlink(f"/proc/self/fd/{fd}").startswith(str(inside))
            os.close(fd)
    finally:
        os.waitpid(child, 0)
    assert os.listdir(outside) == ["x"] and not os.listdir(outside / "x")
