"""Reading figures out of control files, for the modules of statistics; a file that is not there reads as nothing."""

from __future__ import annotations

import errno
import os

from portside.linux.cgroups.writes import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_UINT64 = (1 << 64) - 1


def text(path: str) -> str:
    """The file's content; empty if this kernel, or this group, does not have it."""
    try:
        return read_file(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return ""
        raise


def number(path: str) -> int:
    """A file with one number; ``max`` is the largest that 64 bits hold, a missing file 0."""
    found = text(path)
    return MAX_UINT64 if found == "max" else int(found or 0)


def flat(path: str) -> dict[str, int]:
    """A file of lines ``name number``."""
    return {name: int(value) for name, _, value in (line.partition(" ") for line in text(path).splitlines()) if value}


def nested(path: str) -> dict[str, dict[str, str]]:
    """A file of lines ``name key=value key=value``."""
    found = {}
    for line in text(path).splitlines():
        name, *pairs = line.split()
        found[name] = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    return found


def hugepage_sizes(directory: str, suffix: str) -> list[str]:
    """The page sizes (``2MB``) of which ``directory`` has a file ``hugetlb.<size><suffix>``."""
    sizes = []
    for name in os.listdir(directory):
        size = name.removeprefix("hugetlb.").removesuffix(suffix)
        if name == f"hugetlb.{size}{suffix}" and "." not in size:
            sizes.append(size)
    return sorted(sizes)


def rdma(directory: str) -> dict[str, Any]:
    """``current`` and ``limit`` as lists of entries, alike in both versions; ``max`` is the largest number."""
    return {
        field: [
            {
                "device": device,
                "hca_handles": _uint32(values.get("hca_handle", "0")),
                "hca_objects": _uint32(values.get("hca_object", "0")),
            }
            for device, values in nested(f"{directory}/rdma.{file}").items()
        ]
        for field, file in (("current", "current"), ("limit", "max"))
    }


def _uint32(value: str) -> int:
    return (1 << 32) - 1 if value == "max" else int(value)
