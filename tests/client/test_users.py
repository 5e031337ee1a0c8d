"""USER, the ways in which it has been abused included (CVE-2024-40635, CVE-2026-46680, CVE-2023-25173)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.client.users import MAX_ID, User, parse_id, resolve_groups, resolve_user
from portside.errors import InvalidArgument, NotFound

PASSWD = b"""\
# comment
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1000:bob:/home/bob:/bin/sh

broken
2147483648:x:0:0::/:
-1000:x:0:0::/:
99999999999999999999:x:0:0::/:
0x0:x:0:0::/:
wide:x:4294967296:0::/:
negative:x:-1:0::/:
"""
GROUP = b"root:x:0:\nbob:x:1000:\nextra:x:2000:root,bob\nother:x:2001:bobby\nwheel:x:10:root\nhuge:x:4294967296:\n"


def read(path: str) -> bytes:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}[path]


def nothing(path: str) -> bytes:
    raise NotFound(path)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (0, 2000, 10), "/root")),
        ("root", User(0, 0, (0, 2000, 10), "/root")),
        ("0", User(0, 0, (0, 2000, 10), "/root")),
        ("bob", User(1000, 1000, (1000, 2000), "/home/bob")),
        ("1000", User(1000, 1000, (1000, 2000), "/home/bob")),
        ("1000:1000", User(1000, 1000, (1000,), "/home/bob")),
        ("bob:extra", User(1000, 2000, (2000,), "/home/bob")),
        ("bob:7", User(1000, 7, (7,), "/home/bob")),
        ("4242", User(4242, 0, (0,))),
        ("4242:bob", User(4242, 1000, (1000,))),
        (str(MAX_ID), User(MAX_ID, 0, (0,))),
    ],
)
def test_resolves(text: str, user: User) -> None:
    assert resolve_user(text, read) == user


@pytest.mark.parametrize(
    "text",
    [
        "2147483648", "4294967296", "4294967295", "-1", "-1000", "0x0", " 0", "0 ", "+0", "\uff10", "1_0", "1e3",
        "99999999999999999999", "00000000000", "0:4294967296", "0:-1", "0:+0", ":0", "root:", ":", "\u00b2", "bob\n",
        "a b",
        "0:999999999999", "wide", "negative", "bob:huge",
    ],
)  # fmt: skip
def test_never_root_by_accident(text: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve_user(text, read)


def test_unknown_names() -> None:
    for text in ("nobody-here", "bob:nobody-here"):
        with pytest.raises(NotFound):
            resolve_user(text, read)


def test_without_files() -> None:
    assert resolve_user("", nothing) == User()
    assert resolve_user("12:13", nothing) == User(12, 13, (13,))
    with pytest.raises(NotFound):
        resolve_user("bob", nothing)


def test_groups() -> None:
    assert resolve_groups(["extra", "77"], read) == (2000, 77)


@given(st.text(min_size=1, max_size=20))
def test_any_text_is_a_number_in_range_a_name_or_refused(text: str) -> None:
    try:
        number = parse_id(text, "user")
    except InvalidArgument:
        return
    if number is None:
        assert text.isascii()
        assert not text[0].isdigit()
        assert text[0] not in "+-"
    else:
        assert 0 <= number <= MAX_ID
        assert text.lstrip("0") == (str(number) if number else "")


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_files(passwd: bytes, group: bytes) -> None:
    files = {"/etc/passwd": passwd, "/etc/group": group}
    for text in ("", "bob", "1000", "1000:staff"):
        try:
            user = resolve_user(text, files.__getitem__)
        except (InvalidArgument, NotFound):
            continue
        assert 0 <= user.uid <= MAX_ID
        assert user.gid in user.additional_gids
