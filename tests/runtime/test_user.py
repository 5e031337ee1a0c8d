"""Reading passwd and group files: no root needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.runtime import user
from portside.runtime.failure import RuntimeFailure
from portside.runtime.spec import User


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def write(tmp_path: Path, passwd: str = "", group: str = "") -> None:
    (tmp_path / "etc/passwd").write_text(passwd)
    (tmp_path / "etc/group").write_text(group)


def resolve(root: int, name: str) -> tuple[int, int, list[int], str]:
    found = user.resolve(User({"username": name}, ""), root, want_home=True)
    return found.uid, found.gid, found.groups, found.home


def test_names(tmp_path: Path, root: int) -> None:
    write(tmp_path, "a:x:1:2::/home/a:/sh\nb:x:3:4::/b:", "g:x:9:b,a\nh:x:8:a\nz:x:7:\n")
    assert resolve(root, "a") == (1, 2, [9, 8], "/home/a")
    assert resolve(root, "a:h") == (1, 8, [], "/home/a")
    assert resolve(root, "3") == (3, 4, [9], "/b")
    assert resolve(root, "5") == (5, 0, [], "/")
    assert resolve(root, "5:6") == (5, 6, [], "/")


def test_broken_lines_are_left_out(tmp_path: Path, root: int) -> None:
    write(tmp_path, "a:x:zero:0::/:\na:x:0\n\n:::\na:x:+0:0::/:\na:x:99999999999:0::/:\na:x:5:6::/right:/sh\n")
    assert resolve(root, "a") == (5, 6, [], "/right")


def test_line_ends_are_newlines_only(tmp_path: Path, root: int) -> None:
    write(tmp_path, "x:x:1:1:a\x0bb\x1ceve:x:0:0::/:\n")
    with pytest.raises(RuntimeFailure):
        resolve(root, "eve")


def test_missing_files(root: int) -> None:
    assert resolve(root, "7") == (7, 0, [], "/")
    with pytest.raises(RuntimeFailure, match="unable to find user a"):
        resolve(root, "a")


def test_home_by_number(tmp_path: Path, root: int) -> None:
    write(tmp_path, "a:x:1:2::/home/a:/sh\nempty:x:2:2:::/sh\n")
    assert user.resolve(User({"uid": 1}, ""), root, want_home=True).home == "/home/a"
    assert user.resolve(User({"uid": 2}, ""), root, want_home=True).home == "/"
    assert user.resolve(User({"uid": 1}, ""), root, want_home=False).home == "/"


def test_a_file_that_is_too_large(tmp_path: Path, root: int) -> None:
    with (tmp_path / "etc/passwd").open("w") as file:
        file.truncate(user.MAX_FILE_BYTES + 1)
    with pytest.raises(RuntimeFailure, match="is larger than"):
        resolve(root, "a")


def test_a_file_of_exactly_the_limit(tmp_path: Path, root: int) -> None:
    line = "a:x:1:2::/home/a:/sh\n"
    (tmp_path / "etc/passwd").write_text("#" * (user.MAX_FILE_BYTES - len(line) - 1) + "\n" + line)
    assert resolve(root, "a")[0] == 1


@given(st.text())
def test_numbers_are_strict(text: str) -> None:
    try:
        number = user.parse_number(text)
    except RuntimeFailure:
        return
    if number is not None:
        assert text.isascii() and text.isdigit() and number == int(text) <= 2**31 - 1
    else:
        assert text.isascii() and not text[0].isdigit()


@pytest.mark.parametrize("text", ["0", "1", "2147483647", "007"])
def test_numbers(text: str) -> None:
    assert user.parse_number(text) == int(text)
