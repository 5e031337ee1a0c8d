"""What is mounted here, as far as a root is concerned (proc_pid_mountinfo(5)). Reads ``/proc``, changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount of this process's namespace."""

    point: str
    type: str
    options: str
    """Of the file system, as overlayfs' directories."""

    def concerns(self, *places: Path) -> bool:
        """Whether it is mounted below one of ``places``, or an overlay that writes there."""
        prefixes = tuple(f"{place}/" for place in places)
        writes = any(
            option.startswith(f"upperdir={prefix}") for option in self.options.split(",") for prefix in prefixes
        )
        return writes or f"{self.point}/".startswith(prefixes)


def mounted(text: str | None = None) -> list[Mounted]:
    """All mounts, in the order in which they were made; of this process, or as ``text`` lists them."""
    if text is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) > 5 and len(rest) > 2:
            found.append(Mounted(_unescape(fields[4]), rest[0], _unescape(rest[2])))
    return found


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
