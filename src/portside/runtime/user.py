"""Users and groups of a container: its /etc/passwd and /etc/group, read without trusting them.

What belongs here: names to numbers, and the home directory. Numbers are never looked up as names, and a number that is
none of ours (too large, signed, with strange digits) is an error rather than a name. Reading happens in the process
that is inside, through descriptors; nothing of the host's user database is consulted.
Sources: passwd(5), group(5); runtime-spec config.md, *User*.
"""

from __future__ import annotations

import os
import stat

from portside.linux.openat2 import open_in_root
from portside.runtime.failure import RuntimeFailure
from portside.runtime.spec import MAX_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.runtime.spec import User

#: The largest passwd or group file that is read, in bytes.
MAX_FILE_BYTES = 10 << 20
_DIGITS = frozenset("0123456789")


class Identity:
    """Who a process is: numbers, supplementary groups, home directory."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def parse_number(text: str) -> int | None:
    """An id from 0 to 2**31-1 in plain ASCII digits; None if ``text`` is a name, ``RuntimeFailure`` if neither."""
    if text and all(char in _DIGITS for char in text):
        # Not int() at once: a text of a million digits is slow, and longer ones than ten cannot fit.
        number = int(text) if len(text) <= 10 else MAX_ID + 1
        if number > MAX_ID:
            raise RuntimeFailure(f"user {text[:20]!r}", reason=f"ids are from 0 to {MAX_ID}")
        return number
    if not text or text[0] in "+-" or not text.isascii() or text[0].isspace() or text[0].isdigit():
        raise RuntimeFailure(f"user {text[:40]!r}", reason="is neither a number nor a name")
    return None


def resolve(user: User, root: int, want_home: bool) -> Identity:
    """The identity that ``user`` of a spec means in the file system ``root``.

    With a ``username`` ("bob", "bob:staff", "1000:staff", …) the primary group and the supplementary ones come from
    the files. ``want_home``: look for the home directory too; "/" if nobody has one.
    """
    if user.username:
        return _by_name(user, root)
    home = "/"
    if want_home:
        for _, number, _, directory in passwd_entries(root):
            if number == user.uid:
                home = directory or "/"
                break
    return Identity(user.uid, user.gid, user.additional_gids, home)


def _by_name(user: User, root: int) -> Identity:
    name, _, group = user.username.partition(":")
    uid = parse_number(name)
    entry = None
    for candidate in passwd_entries(root):
        if (candidate[0] == name) if uid is None else (candidate[1] == uid):
            entry = candidate
            break
    if uid is None and entry is None:
        raise RuntimeFailure(f"unable to find user {name}", reason="no matching entries in passwd file")
    login, uid, gid, home = entry or ("", uid or 0, 0, "/")
    groups = list(user.additional_gids)
    if group:
        number = parse_number(group)
        gid = number if number is not None else _group_number(group, root)
    elif login:
        groups += [number for _, number, members in group_entries(root) if login in members]
    return Identity(uid, gid, groups, home or "/")


def _group_number(name: str, root: int) -> int:
    for candidate, number, _ in group_entries(root):
        if candidate == name:
            return number
    raise RuntimeFailure(f"unable to find group {name}", reason="no matching entries in group file")


def passwd_entries(root: int) -> Iterator[tuple[str, int, int, str]]:
    """(name, uid, gid, home) of the container's users; broken lines are left out."""
    for line in _lines(root, "/etc/passwd"):
        fields = line.split(":")
        if len(fields) >= 6 and (uid := _entry_id(fields[2])) is not None and (gid := _entry_id(fields[3])) is not None:
            yield fields[0], uid, gid, fields[5]


def group_entries(root: int) -> Iterator[tuple[str, int, list[str]]]:
    """(name, gid, members) of the container's groups; broken lines are left out."""
    for line in _lines(root, "/etc/group"):
        fields = line.split(":")
        if len(fields) >= 4 and (gid := _entry_id(fields[2])) is not None:
            yield fields[0], gid, fields[3].split(",")


def _entry_id(text: str) -> int | None:
    if not text or len(text) > 10 or not all(char in _DIGITS for char in text):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def _lines(root: int, path: str) -> list[str]:
    """The lines of a file inside, none if it is missing; only a regular file of a sane size is read."""
    try:
        # Without blocking, for it may be a fifo.
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RuntimeFailure.of("read users", error, path) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RuntimeFailure("read users", path, reason="is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise RuntimeFailure("read users", path, reason=f"is larger than {MAX_FILE_BYTES} bytes")
        chunks = []
        size = 0
        # What /proc and the like hold has no size before it is read.
        while size <= MAX_FILE_BYTES and (chunk := os.read(fd, max(4096, min(status.st_size + 1, 1 << 20)))):
            chunks.append(chunk)
            size += len(chunk)
    except OSError as error:
        raise RuntimeFailure.of("read users", error, path) from error
    finally:
        os.close(fd)
    if size > MAX_FILE_BYTES:
        raise RuntimeFailure("read users", path, reason=f"is larger than {MAX_FILE_BYTES} bytes")
    return os.fsdecode(b"".join(chunks)).split("\n")
