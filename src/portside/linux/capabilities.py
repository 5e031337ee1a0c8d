"""Capabilities of the calling thread: names and bits, the five sets, and the calls that change them.

Which capabilities a container gets, and in which order user and sets change, is for the caller; ``Capabilities`` says
what each step needs. Unknown names never fail here: they are reported, as runtimes warn and go on.
Sources: capabilities(7), capset(2), prctl(2), linux/capability.h.
"""

from __future__ import annotations

import ctypes
import struct

from portside.errors import InvalidArgument
from portside.linux.syscalls import declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number, from 0."""
_BITS = {name: 1 << number for number, name in enumerate(NAMES)}

_PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 8, 23, 24, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522

_prctl = declare("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_capget = declare("capget", ctypes.c_char_p, ctypes.c_void_p)
_capset = declare("capset", ctypes.c_char_p, ctypes.c_char_p)


def mask_of(names: Iterable[str]) -> tuple[int, list[str]]:
    """The set of ``names`` as bits, and those that are no capability. Upper or lower case, with or without ``CAP_``."""
    mask, unknown = 0, []
    for name in names:
        plain = name.upper()
        bit = _BITS.get(plain if plain.startswith("CAP_") else "CAP_" + plain, 0)
        mask |= bit
        if not bit:
            unknown.append(name)
    return mask, unknown


def names_of(mask: int) -> list[str]:
    """The names in a set, by number; a bit newer than this module is ``CAP_<number>``."""
    return [
        NAMES[number] if number < len(NAMES) else f"CAP_{number}"
        for number in range(mask.bit_length())
        if mask >> number & 1
    ]


_supported = 0


def supported() -> int:
    """All capabilities that this kernel knows, as bits."""
    global _supported
    if not _supported:
        with open("/proc/sys/kernel/cap_last_cap", "rb", 0) as file:
            _supported = (2 << int(file.read())) - 1
    return _supported


class Capabilities:
    """The five sets of ``process.capabilities`` of a runtime-spec, as bits.

    To become a user with these sets, in this order: ``drop_bounding`` while CAP_SETPCAP is there, ``keep_on_setuid``,
    setgid and setuid, ``apply``.
    """

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(
        self, bounding: int = 0, effective: int = 0, permitted: int = 0, inheritable: int = 0, ambient: int = 0
    ) -> None:
        self.bounding = bounding
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable
        self.ambient = ambient

    @classmethod
    def parse(cls, document: Mapping[str, Any] | None) -> tuple[Capabilities, list[str]]:
        """From ``process.capabilities``, and the names in it that nobody knows, each once. None is no capability."""
        found, unknown = cls(), []
        for name in cls.__slots__:
            names = (document or {}).get(name)
            names = [] if names is None else names
            if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
                raise InvalidArgument(f"process.capabilities.{name}: want a list of names")
            mask, strange = mask_of(names)
            setattr(found, name, mask)
            unknown += strange
        return found, list(dict.fromkeys(unknown))

    def limit(self, available: int) -> list[str]:
        """Take out what is not in ``available`` (``bounding()``): the kernel would refuse the whole.

        The names that were taken out, for a warning.
        """
        lost = 0
        for name in self.__slots__:
            mask = getattr(self, name)
            lost |= mask & ~available
            setattr(self, name, mask & available)
        return names_of(lost)

    def drop_bounding(self) -> None:
        """Take everything out of the thread's bounding set that is not in ours; needs CAP_SETPCAP."""
        drop = supported() & ~self.bounding
        for number in range(drop.bit_length()):
            if drop >> number & 1:
                _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)

    def apply(self) -> list[str]:
        """Set the thread's other sets; the names of ambient ones that the kernel refused (they need the other two)."""
        capset(self.effective, self.permitted, self.inheritable)
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
        refused = 0
        for number in range(self.ambient.bit_length()):
            if self.ambient >> number & 1:
                try:
                    _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0)
                except PermissionError:
                    refused |= 1 << number
        return names_of(refused)

    def __repr__(self) -> str:
        return "Capabilities(" + ", ".join(f"{name}={getattr(self, name):#x}" for name in self.__slots__) + ")"


def keep_on_setuid(keep: bool) -> None:
    """Whether the permitted set outlives a change from user 0 to another; exec clears this."""
    _prctl(_PR_SET_KEEPCAPS, int(keep), 0, 0, 0)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets of the thread; OSError (EPERM) if ``permitted`` grows."""
    halves = [word >> shift & 0xFFFFFFFF for shift in (0, 32) for word in (effective, permitted, inheritable)]
    _capset(struct.pack("=Ii", _VERSION_3, 0), struct.pack("=6I", *halves))


def capget(pid: int = 0) -> tuple[int, int, int]:
    """Effective, permitted and inheritable set of a thread (0: ours)."""
    data = ctypes.create_string_buffer(24)
    _capget(struct.pack("=Ii", _VERSION_3, pid), data)
    low = struct.unpack("=6I", data.raw)
    effective, permitted, inheritable = (low[index] | low[index + 3] << 32 for index in range(3))
    return effective, permitted, inheritable


def bounding() -> int:
    """The thread's bounding set: what it may ever pass on."""
    return sum(1 << number for number in range(supported().bit_length()) if _prctl(_PR_CAPBSET_READ, number, 0, 0, 0))
