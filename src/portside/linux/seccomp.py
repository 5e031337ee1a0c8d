"""Seccomp filters as bytes: loading one into the calling thread, and keeping those that were compiled.

``Filter.load`` is what runs between clone and exec: one system call on buffers that are ready. Compiling, by
libseccomp, happens before that and is left out where the profile is known (``FilterCache``).
Sources: seccomp(2), runtime-spec config-linux.md, *Seccomp*.
"""

from __future__ import annotations

import ctypes
import json
import os

from portside.errors import InvalidArgument
from portside.linux.syscalls import declare
from portside.version import __version__

try:
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:  # before Python 3.12; hashlib would bring OpenSSL along, which shims have no use for
    from _sha256 import sha256  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": 8,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_SPEC_ALLOW, _NEW_LISTENER, _WAIT_KILLABLE = 4, 8, 32
_SET_MODE_FILTER = 1
MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS: the kernel takes no longer program."""

_seccomp = declare("seccomp", ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class Filter:
    """A compiled filter, ready to be loaded; ``unknown`` are the system calls in its profile that nobody here knows."""

    __slots__ = ("_address", "_buffer", "_program", "flags", "program", "unknown")

    def __init__(self, program: bytes, flags: int, unknown: tuple[str, ...] = ()) -> None:
        if not program or len(program) % 8 or len(program) // 8 > MAX_INSTRUCTIONS:
            raise InvalidArgument(
                f"seccomp: a filter of {len(program)} bytes is not 1 to {MAX_INSTRUCTIONS} instructions"
            )
        self.program = program
        self.flags = flags
        self.unknown = unknown
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // 8, ctypes.addressof(self._buffer))
        self._address = ctypes.addressof(self._program)

    @property
    def notifies(self) -> bool:
        """Whether ``load`` returns a descriptor on which somebody has to answer."""
        return bool(self.flags & _NEW_LISTENER)

    def load(self) -> int:
        """Put the filter on the calling thread, for good: the listener's descriptor if ``notifies``, else 0.

        Needs no_new_privs or CAP_SYS_ADMIN (EACCES); an unknown flag is EINVAL.
        """
        return _seccomp(_SET_MODE_FILTER, self.flags, self._address)


def flags_of(profile: Mapping[str, Any]) -> int:
    """The flags for seccomp(2); without ``flags`` in the profile, SPEC_ALLOW, as other runtimes have it."""
    names = profile.get("flags")
    if names is None:
        flags = _SPEC_ALLOW
    else:
        unknown = [name for name in names if name not in _FLAGS]
        if unknown:
            raise InvalidArgument(f"linux.seccomp.flags: {str(unknown[0])[:80]!r} is not a flag")
        flags = 0
        for name in names:
            flags |= _FLAGS[name]
    actions = [entry.get("action") for entry in profile.get("syscalls") or [] if isinstance(entry, dict)]
    if "SCMP_ACT_NOTIFY" in actions:
        flags |= _NEW_LISTENER
    elif flags & _WAIT_KILLABLE:
        raise InvalidArgument("linux.seccomp.flags: WAIT_KILLABLE_RECV needs an action SCMP_ACT_NOTIFY")
    return flags


def compile_filter(profile: Mapping[str, Any]) -> Filter:
    """Compile an OCI ``linux.seccomp`` object; some milliseconds. Errors as of ``libseccomp.compile_profile``."""
    from portside.linux import libseccomp  # only where nothing is cached

    program, unknown = libseccomp.compile_profile(profile)
    return Filter(program, flags_of(profile), tuple(unknown))


_MAGIC = b"portside-seccomp-1\n"


class FilterCache:
    """Compiled filters by the hash of their profile, in memory and, with a directory, on disk.

    ``directory`` must be writable for nobody else: its files become filters. A file is named by the hash of profile,
    version, kernel release and machine, is written under a private name and renamed; it holds a line with format, the
    hash of the rest, a line of JSON with the unknown names, and the program. What does not fit its hash is compiled
    anew and replaced. Filters of older kernels are left for whoever cleans the directory.
    """

    def __init__(self, directory: str = "", limit: int = 64) -> None:
        self._directory = directory
        self._limit = limit
        self._known: dict[str, Filter] = {}

    def get(self, profile: Mapping[str, Any]) -> Filter:
        """The filter for ``profile``, compiled if need be."""
        key = _key(profile)
        found = self._known.get(key)
        if found is None:
            found = self._read(key, profile) or self._compile(key, profile)
            if len(self._known) >= self._limit:
                self._known.pop(next(iter(self._known)))
            self._known[key] = found
        return found

    def _compile(self, key: str, profile: Mapping[str, Any]) -> Filter:
        compiled = compile_filter(profile)
        if self._directory:
            try:
                self._write(key, compiled)
            except OSError:
                return compiled  # a full or read-only disk costs time, not the container
        return compiled

    def _read(self, key: str, profile: Mapping[str, Any]) -> Filter | None:
        if not self._directory:
            return None
        try:
            with open(f"{self._directory}/{key}", "rb", 0) as file:
                data = file.read()
        except OSError:
            return None
        start = len(_MAGIC) + 32
        if not data.startswith(_MAGIC) or sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
            return None
        unknown, _, program = data[start:].partition(b"\n")
        return Filter(program, flags_of(profile), tuple(json.loads(unknown)))

    def _write(self, key: str, compiled: Filter) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        body = json.dumps(compiled.unknown).encode() + b"\n" + compiled.program
        private = f"{self._directory}/.{key}.{os.getpid()}"
        fd = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, _MAGIC + sha256(body).digest() + body)
        finally:
            os.close(fd)
        os.rename(private, f"{self._directory}/{key}")


def _key(profile: Mapping[str, Any]) -> str:
    """What we, the library and the kernel can do is part of it: some actions compile only where the kernel has them."""
    machine = os.uname()
    parts = [__version__, machine.release, machine.machine, profile]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    digest: str = sha256(text.encode()).hexdigest()
    return digest
