"""The executor against a directory that refuses what the kernel would refuse."""

import errno

import pytest

from portside.linux.cgroups import writes
from portside.linux.cgroups.writes import EITHER, OPTIONAL, PAIRED, Write, apply_writes


@pytest.fixture
def group(tmp_path):
    def make(*files):
        for file in files:
            (tmp_path / file).touch()
        return lambda controller: str(tmp_path)

    make.read = lambda file: (tmp_path / file).read_text()
    return make


def test_in_order(group):
    apply_writes([Write("c", "a", 1), Write("c", "a", 22)], group("a"))
    assert group.read("a") == "22"


def test_a_missing_file_is_named(group):
    with pytest.raises(FileNotFoundError, match=r"writing '1'.*/a'"):
        apply_writes([Write("c", "a", 1)], group())


def test_a_missing_optional_file_is_passed_over(group):
    apply_writes([Write("c", "a", 1, OPTIONAL), Write("c", "b", 2)], group("b"))
    assert group.read("b") == "2"


def test_either_takes_the_first_that_is_there(group):
    plan = [Write("c", "new", 1, EITHER), Write("c", "old", 2), Write("c", "after", 3)]
    directory = group("new", "old", "after")
    apply_writes(plan, directory)
    assert (group.read("new"), group.read("old"), group.read("after")) == ("1", "", "3")


def test_either_falls_back(group):
    apply_writes([Write("c", "new", 1, EITHER), Write("c", "old", 2)], group("old"))
    assert group.read("old") == "2"


def test_a_refused_pair_is_written_the_other_way_round(group, monkeypatch):
    """As memory and memory with swap: the kernel refuses a first above a second."""
    values = {"first": 10, "second": 10}
    order = []

    def kernel(path, value):
        name = path.rpartition("/")[2]
        wanted = values | {name: int(value)}
        if wanted["first"] > wanted["second"]:
            raise OSError(errno.EINVAL, "Invalid argument", path)
        order.append(name)
        values[name] = int(value)

    monkeypatch.setattr(writes, "write_file", kernel)
    plan = [Write("c", "first", 20, PAIRED), Write("c", "second", 30), Write("c", "third", 0)]
    apply_writes(plan, lambda controller: "/x")
    assert order == ["second", "first", "third"]
    order.clear()
    apply_writes([Write("c", "first", 5, PAIRED), Write("c", "second", 6)], lambda controller: "/x")
    assert order == ["first", "second"]


def test_other_refusals_are_errors(group, monkeypatch):
    def kernel(path, value):
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(writes, "write_file", kernel)
    with pytest.raises(OSError, match="busy"):
        apply_writes([Write("c", "a", 1, PAIRED), Write("c", "b", 1)], lambda controller: "/x")


def test_long_files_are_read_whole(tmp_path):
    text = "\n".join(f"8:{minor} rbytes=0" for minor in range(9000))
    (tmp_path / "long").write_text(text + "\n")
    assert writes.read_file(str(tmp_path / "long")) == text
