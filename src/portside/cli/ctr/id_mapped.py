"""Containers with user namespaces of their own (``--uidmap``, ``--gidmap``): whose the files of their snapshot are.

With ``--remap-labels`` the snapshotter shifts them. Without, a copy of the image's top snapshot is made once for each
mapping, all of its files given to the mapped owners, as ctr does; containers then stand on that.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence

from portside.cli.ctr.grammar import Values
from portside.cli.ctr.mounting import temporarily
from portside.cli.ctr.spec import id_map
from portside.core.snapshots import Snapshotter
from portside.core.work import in_thread
from portside.errors import AlreadyExists, InvalidArgument, NotFound
from portside.oci.digest import Digest

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"

Mappings = Sequence[Mapping[str, int]]


async def remapped_parent(store: Snapshotter, chain: str, values: Values) -> tuple[str, dict[str, str]]:
    """What a container's snapshot is to stand on, and further labels for it; without mappings ``chain`` and none."""
    uids, gids = id_map(values.get("uidmap") or ()), id_map(values.get("gidmap") or ())
    if not uids or not gids:
        return chain, {}
    if values["remap_labels"]:
        return chain, {UID_LABEL: _text(uids), GID_LABEL: _text(gids)}
    key = _name_of(chain, uids, gids)
    if not await _exists(store, key):
        await _make(store, key, chain, uids, gids)
    return key, {}


def _name_of(chain: str, uids: Mappings, gids: Mappings) -> str:
    """As containerd 2 calls it, so that either finds what the other has made."""
    maps = {"UidMap": _in_order(uids), "GidMap": _in_order(gids)}
    return Digest.of(json.dumps({"Parent": chain, "IDMap": maps}, separators=(",", ":")).encode())


def _in_order(mappings: Mappings) -> list[Mapping[str, int]]:
    return sorted(mappings, key=lambda entry: entry["containerID"])


async def _exists(store: Snapshotter, key: str) -> bool:
    try:
        await store.stat(key)
    except NotFound:
        return False
    return True


async def _make(store: Snapshotter, key: str, chain: str, uids: Mappings, gids: Mappings) -> None:
    work = f"{key}-remap-{os.urandom(4).hex()}"
    mounts = await store.prepare(work, chain)
    try:

        def shift() -> None:
            with temporarily(mounts) as root:
                _shift(root, uids, gids)

        await in_thread(shift)
        await store.commit(key, work)
    except AlreadyExists:
        await store.remove(work)
    except BaseException:
        await store.remove(work)
        raise


def _shift(root: str, uids: Mappings, gids: Mappings) -> None:
    pending = [root]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        os.lchown(path, _mapped(uids, status.st_uid), _mapped(gids, status.st_gid))
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX) and not stat.S_ISLNK(status.st_mode):
            os.chmod(path, stat.S_IMODE(status.st_mode))  # a change of owner has taken these bits away
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                pending += [entry.path for entry in entries]


def _mapped(mappings: Mappings, id: int) -> int:
    for mapping in mappings:
        if 0 <= id - mapping["containerID"] < mapping["size"]:
            return mapping["hostID"] + id - mapping["containerID"]
    raise InvalidArgument(f"id {id} of the image's files is in none of the mappings {_text(mappings)}")


def _text(mappings: Mappings) -> str:
    return ",".join(f"{entry['containerID']}:{entry['hostID']}:{entry['size']}" for entry in mappings)
