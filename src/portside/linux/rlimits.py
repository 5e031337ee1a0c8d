"""Resource limits of a process: ``process.rlimits`` of a runtime-spec checked, and set (getrlimit(2), prlimit(2))."""

from __future__ import annotations

import errno
import resource

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeGuard

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
        if not isinstance(entry, dict):
            raise InvalidArgument("process.rlimits: want a list of objects")
        kind, soft, hard = entry.get("type"), entry.get("soft"), entry.get("hard")
        number = _NUMBERS.get(str(kind))
        if number is None:
            raise InvalidArgument(f"process.rlimits: {str(kind)[:80]!r} is not a resource")
        if any(number == other for other, _soft, _hard in found):
            raise InvalidArgument(f"process.rlimits: {kind} is there twice")
        if not _is_limit(soft) or not _is_limit(hard) or soft > hard:
            raise InvalidArgument(f"process.rlimits: {kind}: soft {soft!r} and hard {hard!r} do not make a limit")
        found.append((number, soft, hard))
    return found


def _is_limit(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INFINITY


def apply(limits: Sequence[Limit], pid: int = 0) -> None:
    """Set them on ``pid`` (0: the caller); OSError (EPERM) if a hard limit is raised without CAP_SYS_RESOURCE."""
    for number, soft, hard in limits:
        try:
            resource.prlimit(pid, number, (_value(soft), _value(hard)))
        except (PermissionError, ValueError):  # the latter is the module's word for the former in some versions
            text = f"{_name(number)} {soft}:{hard} is above what this process may set"
            raise PermissionError(errno.EPERM, text) from None


def _value(limit: int) -> int:
    return resource.RLIM_INFINITY if limit > (1 << 63) - 1 else limit


def _name(number: int) -> str:
    return next(name for name, value in _NUMBERS.items() if value == number)
