"""USER: from what an image or a person writes to numbers, by the rootfs's own /etc/passwd and /etc/group.

Strict where software has been tricked: what looks like a number is one or an error, never a name, and never wraps
(CVE-2024-40635, CVE-2026-46680); the primary group is always among the additional ones (CVE-2023-25173). Python's
``int`` accepts blanks, signs, underscores and any script's digits: it only ever sees ASCII digits here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from portside.errors import InvalidArgument, NotFound

MAX_ID = (1 << 31) - 1
MAX_FILE = 10 << 20
"""Bytes of /etc/passwd or /etc/group that we read."""
MAX_GROUPS = 65536
"""NGROUPS_MAX of the kernel."""

ReadFile = Callable[[str], bytes]
"""Reads an absolute path of the rootfs; NotFound if it is not there."""


@dataclass(frozen=True, slots=True)
class User:
    """As in runtime-spec's ``process.user``; ``home`` is empty where passwd has no line."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = (0,)
    home: str = ""


def parse_id(text: str, what: str) -> int | None:
    """The number in ``text``, None if it is a name; InvalidArgument if it is neither a proper number nor a name."""
    if text.isascii() and text.isdigit():
        # Longer than ten digits is out of range however many zeros lead.
        if len(text) > 10 or int(text) > MAX_ID:
            raise InvalidArgument(f"{what} {text[:40]!r}: not between 0 and {MAX_ID}")
        return int(text)
    first = text[:1]
    if not first or not text.isascii() or not text.isprintable() or " " in text or first in "+-" or first.isdigit():
        raise InvalidArgument(f"{what} {text[:40]!r}: neither a number nor a name")
    return None


def resolve_user(user: str, read_file: ReadFile) -> User:
    """``user[:group]``, each a number or a name; empty is root.

    InvalidArgument for malformed or out-of-range text, NotFound for a name that the rootfs does not have. The files
    are read only when needed; numbers work without them.
    """
    name, colon, group = user.partition(":")
    if colon and not group:
        raise InvalidArgument(f"user {user[:80]!r}: a group must follow the colon")
    wanted = parse_id(name or ("" if user else "0"), "user")
    line = _find_user(_lines(_read(read_file, "/etc/passwd")), name if wanted is None else "", wanted)
    if wanted is None and line is None:
        raise NotFound(f"user {name[:80]!r}: not in the image's /etc/passwd")
    uid = wanted if wanted is not None else _number(line, 2, "user", name)
    gid = _number(line, 3, "group of user", name) if line is not None else 0
    groups = _read(read_file, "/etc/group")
    additional: Sequence[int] = ()
    if colon:
        gid = _find_group(groups, group)
    elif line is not None:
        additional = _memberships(groups, line[0])
    return User(uid, gid, tuple(dict.fromkeys((gid, *additional))), line[5] if line and len(line) > 5 else "")


def resolve_groups(names: Sequence[str], read_file: ReadFile) -> tuple[int, ...]:
    """Numbers of further groups, as ``--group-add`` names them."""
    groups = _read(read_file, "/etc/group")
    return tuple(_find_group(groups, name) for name in names)


def _read(read_file: ReadFile, path: str) -> bytes:
    try:
        return read_file(path)
    except NotFound:
        return b""


def _lines(data: bytes) -> Iterator[list[str]]:
    """Fields of each line, one at a time: a hostile file has millions. Comments and blank lines are left out."""
    for raw in io.BytesIO(data):
        line = raw.decode("utf-8", "surrogateescape").strip()
        if line and not line.startswith("#"):
            yield line.split(":", 6)


def _find_user(lines: Iterator[list[str]], name: str, uid: int | None) -> list[str] | None:
    for line in lines:
        if len(line) < 4:
            continue
        if (name and line[0] == name) or (uid is not None and _same(line[2], uid)):
            return line
    return None


def _find_group(data: bytes, name: str) -> int:
    gid = parse_id(name, "group")
    if gid is not None:
        return gid
    for line in _lines(data):
        if len(line) > 2 and line[0] == name:
            return _number(line, 2, "group", name)
    raise NotFound(f"group {name[:80]!r}: not in the image's /etc/group")


def _memberships(data: bytes, name: str) -> list[int]:
    found = [
        _number(line, 2, "group", line[0])
        for line in _lines(data)
        if len(line) > 3 and name and name in line[3].split(",")
    ]
    if len(found) > MAX_GROUPS:
        raise InvalidArgument(f"user {name[:80]!r}: in {len(found)} groups, more than {MAX_GROUPS}")
    return found


def _same(text: str, number: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) == number


def _number(line: Sequence[str] | None, field: int, what: str, name: str) -> int:
    text = line[field] if line is not None else ""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > MAX_ID:
        raise InvalidArgument(f"{what} {name[:80]!r}: the image gives it the number {text[:40]!r}")
    return int(text)
