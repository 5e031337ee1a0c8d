import os

import pytest

from portside.linux.trees import MAX_DEPTH, count_tree, remove_tree


@pytest.fixture
def here(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield tmp_path, fd
    os.close(fd)


def make_deep(path, depth):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(depth):
        os.mkdir("d", dir_fd=fd)
        with open(os.open(f"f{level}", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "w"):
            pass
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH, MAX_DEPTH + 1, 3 * MAX_DEPTH + 5, 2500])
def test_trees_of_any_depth(here, depth):
    path, fd = here
    (path / "tree").mkdir()
    make_deep(path / "tree", depth)
    assert count_tree(path / "tree")[0] == 1 + 2 * depth
    remove_tree(fd, "tree")
    assert os.listdir(path) == []


def test_names_used_for_moving_up_may_exist(here):
    path, fd = here
    (path / "tree" / ".deep-1").mkdir(parents=True)
    (path / "tree" / ".deep-1" / "x").touch()
    (path / "tree" / ".deep-2").touch()
    make_deep(path / "tree", 2 * MAX_DEPTH)
    remove_tree(fd, "tree")
    assert os.listdir(path) == []


def test_missing_files_and_links(here):
    path, fd = here
    remove_tree(fd, "missing")
    (path / "file").touch()
    (path / "target").mkdir()
    (path / "link").symlink_to("target")
    remove_tree(fd, "file")
    remove_tree(fd, b"link")
    assert os.listdir(path) == ["target"]


def test_strange_names(here):
    path, fd = here
    os.makedirs(os.fsencode(path) + b"/tree/\xff")
    remove_tree(fd, "tree")
    assert os.listdir(path) == []
