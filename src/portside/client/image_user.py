"""The user a process runs as, looked up in the files of a container's snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from portside.client.rootfs_files import layer_directories, read_rootfs_file
from portside.client.users import MAX_FILE, User, resolve_groups, resolve_user
from portside.core.mount import Mount
from portside.core.work import in_thread
from portside.errors import FailedPrecondition

_MAX_KNOWN = 512
_known: dict[tuple[str, str, tuple[str, ...]], User] = {}


def known_user(chain: str, user: str, groups: Sequence[str] = ()) -> User | None:
    """What an earlier look into the same layers said; a chain ID names their content, so this is never out of date."""
    return _known.get((chain, user, tuple(groups)))


async def image_user(mounts: Sequence[Mount], user: str, groups: Sequence[str] = (), chain: str = "") -> User:
    """Resolve ``user`` in the snapshot that ``mounts`` shows; with a ``chain`` the answer is remembered.

    Where the snapshot cannot be seen from here (another machine, a device), numbers are taken as they are and names
    are FailedPrecondition.
    """
    found = await in_thread(_resolve, mounts, user, groups)
    if chain:
        if len(_known) >= _MAX_KNOWN:
            _known.pop(next(iter(_known)))
        _known[chain, user, tuple(groups)] = found
    return found


def _resolve(mounts: Sequence[Mount], user: str, groups: Sequence[str]) -> User:
    invisible: list[FailedPrecondition] = []

    def read(path: str) -> bytes:
        if invisible:
            return b""
        try:
            return read_rootfs_file(layer_directories(mounts), path, MAX_FILE)
        except FailedPrecondition as error:
            invisible.append(error)
            return b""

    try:
        found = resolve_user(user, read)
        further = resolve_groups(groups, read) if groups else ()
    except Exception as error:
        if invisible:
            raise FailedPrecondition(f"user {user[:80]!r}: cannot be looked up, {invisible[0]}") from error
        raise
    return replace(found, additional_gids=tuple(dict.fromkeys((*found.additional_gids, *further))))
