"""Where the control groups of this machine are mounted, and which path in them a caller means.

Three layouts exist: *unified* (version 2 alone), *legacy* (version 1 alone) and *hybrid* (controllers on version 1,
a version 2 tree beside them that has none or few). Making and changing groups is the work of ``v1`` and ``v2``.
Sources: cgroups(7), proc(5) on mountinfo and on /proc/pid/cgroup, the runtime-spec's config-linux.md, *Cgroups*.
"""

from __future__ import annotations

from portside.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Literal

    Mode = Literal["unified", "hybrid", "legacy", "none"]

CONTROLLERS: Final = frozenset(
    {
        "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc",
        "net_cls", "net_prio", "perf_event", "pids", "rdma",
    }
)  # fmt: skip


class Layout:
    """The mounted hierarchies.

    ``v1`` maps a controller (``memory``; ``name=systemd`` for one without controllers) to its mount point; two
    controllers mounted together have the same one. ``v2`` is the mount point of version 2 or empty. ``roots`` maps a
    mount point to what of the hierarchy it shows (``/`` unless somebody bind-mounted a part).
    """

    __slots__ = ("roots", "v1", "v2")

    def __init__(self, v1: Mapping[str, str], v2: str, roots: Mapping[str, str] | None = None) -> None:
        self.v1 = dict(v1)
        self.v2 = v2
        self.roots = dict(roots or {})

    @property
    def mode(self) -> Mode:
        """``unified``, ``hybrid``, ``legacy``, or ``none`` where nothing is mounted."""
        if self.v1:
            return "hybrid" if self.v2 else "legacy"
        return "unified" if self.v2 else "none"

    def hierarchies(self) -> dict[str, list[str]]:
        """Each mount point of version 1 once, with its controllers."""
        found: dict[str, list[str]] = {}
        for controller, mount in self.v1.items():
            found.setdefault(mount, []).append(controller)
        return found

    def unified_path(self, membership: Mapping[str, str]) -> str:
        """The version 2 group of the process that ``membership`` (``parse_membership``) tells of, below ``v2``."""
        path, root = membership.get("", "/"), self.roots.get(self.v2, "/").rstrip("/")
        if root and (path + "/").startswith(root + "/"):
            path = path[len(root) :]
        return path or "/"


def parse_mountinfo(text: str) -> Layout:
    """The layout that ``/proc/self/mountinfo`` describes; of several mounts of a hierarchy the first counts."""
    v1: dict[str, str] = {}
    v2 = ""
    roots: dict[str, str] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        if not right.startswith("cgroup"):
            continue
        fields, (kind, *_rest) = left.split(" "), right.split(" ")
        if len(fields) < 5:
            continue
        root, mount = _unescape(fields[3]), _unescape(fields[4])
        if kind == "cgroup2":
            v2 = v2 or mount
        elif kind == "cgroup":
            for option in right.rsplit(" ", 1)[-1].split(","):
                if option in CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, mount)
        else:
            continue
        roots.setdefault(mount, root)
    return Layout(v1, v2, roots)


def _unescape(field: str) -> str:
    r"""Undo mountinfo's ``\040`` and its like."""
    if "\\" not in field:
        return field
    head, *rest = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


_layout: Layout | None = None


def layout(*, refresh: bool = False) -> Layout:
    """The layout of this machine, read once: mounts of control groups do not change while a machine runs."""
    global _layout
    if _layout is None or refresh:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            _layout = parse_mountinfo(file.read())
    return _layout


def require_layout() -> Layout:
    """``layout()``; FailedPrecondition where no control groups are mounted."""
    found = layout()
    if found.mode == "none":
        raise FailedPrecondition("cgroups: no hierarchy is mounted (expected one at /sys/fs/cgroup)")
    return found


def parse_membership(text: str) -> dict[str, str]:
    """``/proc/<pid>/cgroup`` as controller → path; version 2 has the key ``""``."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            found[controller] = path
    return found


def membership_of(pid: int | str = "self") -> dict[str, str]:
    """The groups that ``pid`` is in; FileNotFoundError or ProcessLookupError if it has gone."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return parse_membership(file.read())


def check_path(path: str) -> str:
    """``path`` without empty and ``.`` components; what is empty or climbs is InvalidArgument."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArgument(f"bad sub cgroup path: {path[:300]!r} has a component '..'")
    if not parts or "\0" in path or "\n" in path:
        raise InvalidArgument(f"bad cgroup path: {path[:300]!r}")
    return ("/" if path.startswith("/") else "") + "/".join(parts)
