"""How a process competes with others: scheduling policy and disk priority (runtime-spec config.md, *Linux Process*).

What belongs here: ``process.scheduler`` and ``process.ioPriority``, read and applied to the calling process.
Sources: sched_setattr(2), ioprio_set(2).
"""

from __future__ import annotations

import ctypes

from portside.errors import InvalidArgument
from portside.linux.syscalls import declare
from portside.runtime.fields import at, integer, section, strings, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# include/uapi/linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
# include/uapi/linux/ioprio.h
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IOPRIO_CLASS_SHIFT = 13
_IOPRIO_WHO_PROCESS = 1
_UINT64 = 2**64 - 1


class _SchedAttr(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


_sched_setattr = declare("sched_setattr", ctypes.c_int, ctypes.POINTER(_SchedAttr), ctypes.c_uint)
_ioprio_set = declare("ioprio_set", ctypes.c_int, ctypes.c_int, ctypes.c_int)


class Priority:
    """Both, as they are in a spec's ``process``; what is absent is left as it is."""

    __slots__ = ("_attributes", "_io")

    def __init__(self, process: Mapping[str, Any], where: str) -> None:
        scheduler = section(process, "scheduler", where)
        self._attributes = _scheduler(scheduler, at(where, "scheduler")) if scheduler else None
        io = section(process, "ioPriority", where)
        self._io = _io_priority(io, at(where, "ioPriority")) if io else -1

    def apply(self) -> None:
        """Give them to the calling process; OSError (EPERM) if that takes rights that we have not."""
        if self._io >= 0:
            _ioprio_set(_IOPRIO_WHO_PROCESS, 0, self._io)
        if self._attributes is not None:
            _sched_setattr(0, self._attributes, 0)


def _scheduler(document: Mapping[str, Any], where: str) -> _SchedAttr:
    found = _SchedAttr(size=ctypes.sizeof(_SchedAttr))
    found.policy = _one_of(_POLICIES, text(document, "policy", where, required=True), at(where, "policy"))
    for flag in strings(document, "flags", where):
        found.flags |= _one_of(_FLAGS, flag, at(where, "flags"))
    found.nice = integer(document, "nice", where, 0, -20, 19)
    found.priority = integer(document, "priority", where, 0, 0, 99)
    for name in ("runtime", "deadline", "period"):
        setattr(found, name, integer(document, name, where, 0, 0, _UINT64))
    return found


def _io_priority(document: Mapping[str, Any], where: str) -> int:
    kind = _one_of(_IO_CLASSES, text(document, "class", where, required=True), at(where, "class"))
    return kind << _IOPRIO_CLASS_SHIFT | integer(document, "priority", where, 0, 0, 7)


def _one_of(values: Mapping[str, int], name: str, place: str) -> int:
    if name not in values:
        raise InvalidArgument(f"{place}: {name[:80]!r} is none of {', '.join(values)}")
    return values[name]
