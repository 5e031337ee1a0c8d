"""Resource limits of a process: ``process.rlimits`` of a runtime-spec checked, and set (getrlimit(2), prlimit(2))."""

from __future__ import annotations

import resource

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Limit = tuple[int, int, int]

_NUMBERS = {name: value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
# Linux' number for it is on every architecture; the resource module has no name for it.
_NUMBERS.setdefault("RLIMIT_LOCKS", 10)
_NUMBERS.pop("RLIMIT_OFILE", None)  # BSD's word for NOFILE
_INFINITY = (1 << 64) - 1


def parse(rlimits: Sequence[Any] | None) -> list[Limit]:
    """(number, soft, hard) for each entry; an unknown or repeated type or soft above hard is InvalidArgument."""
    found: list[Limit] = []
    for entry in rlimits or []:
        kind, soft, hard = (entry.get(key) if isinstance(entry, dict) else None for key in ("type", "soft", "hard"))
        number = _NUMBERS.get(kind) if isinstance(kind, str) else None
        if number is None:
            raise InvalidArgument(f"process.rlimits: {str(kind)[:80]!r} is not a resource")
        if any(number == other for other, _soft, _hard in found):
            raise InvalidArgument(f"process.rlimits: {kind} is there twice")
        if not _is_limit(soft) or not _is_limit(hard) or soft > hard:
            raise InvalidArgument(f"process.rlimits: {kind}: soft {soft!r} and hard {hard!r} do not make a limit")
        found.append((number, soft, hard))
    return found


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INFINITY


def apply(limits: Sequence[Limit], pid: int = 0) -> None:
    """Set them on ``pid`` (0: the caller); OSError (EPERM) if a hard limit is raised without CAP_SYS_RESOURCE."""
    for number, soft, hard in limits:
        try:
            resource.prlimit(pid, number, (_value(soft), _value(hard)))
        except ValueError:
            # The module's word for a hard limit above the present one.
            raise PermissionError(
                1, f"rlimit {_name(number)}: {soft}:{hard} is above what this process may set"
            ) from None


def _value(limit: int) -> int:
    return resource.RLIM_INFINITY if limit > (1 << 63) - 1 else limit


def _name(number: int) -> str:
    return next(name for name, value in _NUMBERS.items() if value == number)
