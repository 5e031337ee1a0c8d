"""libseccomp by ctypes: an OCI ``linux.seccomp`` object becomes the bytes of a filter program.

Compiling costs milliseconds and memory, so that its results are kept (``seccomp.FilterCache``); what runs between
clone and exec loads bytes and needs nothing of this. Sources: libseccomp's manual pages, runtime-spec
config-linux.md, *Seccomp*.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from portside.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_ALLOW = 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _ALLOW,
}
_NOTIFY = _ACTIONS["SCMP_ACT_NOTIFY"]
_COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE (libseccomp 2.5) and its value
_UNKNOWN_SYSCALL = -1
_X32, _X86_64 = 0x4000003E, 0xC000003E
_X32_BIT = 0x40000000


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


_library: ctypes.CDLL | None = None


def _load() -> ctypes.CDLL:
    """The library with its prototypes; FailedPrecondition where it is not installed."""
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL("libseccomp.so.2")
        except OSError as error:
            raise FailedPrecondition(
                f"seccomp: libseccomp cannot be loaded, install it (libseccomp2): {error}"
            ) from None
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = [ctypes.c_uint32]
        library.seccomp_release.restype = None
        library.seccomp_release.argtypes = [ctypes.c_void_p]
        library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
        library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison),
        ]  # fmt: skip
        library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        _library = library
    return _library


def version() -> str:
    """The library's version; filters of another one are compiled anew."""
    library = _load()
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return ".".join(map(str, library.seccomp_version().contents))


def compile_profile(profile: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """The filter program for an OCI ``linux.seccomp`` object, and the system calls in it that nobody here knows.

    InvalidArgument for a profile that means nothing; OSError if the library or the kernel refuses it.
    """
    library = _load()
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"))
    if default == _NOTIFY:
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default")
    context = library.seccomp_init(default)
    if not context:
        raise OSError(errno.EINVAL, f"seccomp_init({default:#x}): the library refuses the default action")
    try:
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)  # an older library stays with its linear search
        architectures = _add_architectures(library, context, profile)
        rules = _rules(profile)
        unknown = []
        for names, action, conditions in rules:
            for name in names:
                number = library.seccomp_syscall_resolve_name(name.encode())
                if number == _UNKNOWN_SYSCALL:
                    unknown.append(name)
                elif action != default:
                    _add_rule(library, context, name, number, action, conditions)
        program = _export(library, context)
    finally:
        library.seccomp_release(context)
    if default != _ALLOW and default != _ERRNO | errno.ENOSYS:
        named = {name for names, _action, _conditions in rules for name in names}
        program = _unknown_prologue(library, architectures, named) + program
    return program, list(dict.fromkeys(unknown))


def _action(name: Any, errno_return: Any) -> int:
    action = _ACTIONS.get(name) if isinstance(name, str) else None
    if action is None:
        raise InvalidArgument(f"linux.seccomp: {str(name)[:80]!r} is not an action")
    if action in (_ERRNO, _TRACE):
        code = errno.EPERM if errno_return is None else errno_return
        if not isinstance(code, int) or not 0 <= code <= 0xFFFF:
            raise InvalidArgument(f"linux.seccomp: errnoRet {str(code)[:80]!r} is not an error number")
        return action | code
    if errno_return:
        raise InvalidArgument(f"linux.seccomp: errnoRet has no meaning with {name}")
    return action


def _add_architectures(library: ctypes.CDLL, context: int, profile: Mapping[str, Any]) -> list[int]:
    """Let the filter hold for the listed architectures and, always, for the machine's own; their numbers."""
    found = [library.seccomp_arch_native()]
    for name in profile.get("architectures") or []:
        token = library.seccomp_arch_resolve_name(str(name).removeprefix("SCMP_ARCH_").lower().encode())
        if not str(name).startswith("SCMP_ARCH_") or not token:
            raise InvalidArgument(f"linux.seccomp.architectures: {str(name)[:80]!r} is not an architecture")
        if token not in found:
            _check(library.seccomp_arch_add(context, token), f"seccomp_arch_add({name})")
            found.append(token)
    return found


def _rules(profile: Mapping[str, Any]) -> list[tuple[list[str], int, list[tuple[int, _Comparison]]]]:
    """``syscalls`` checked and read: names, action, conditions with the index of their argument."""
    found = []
    for entry in profile.get("syscalls") or []:
        names = entry.get("names") if isinstance(entry, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidArgument("linux.seccomp.syscalls: each entry needs a list of names")
        action = _action(entry.get("action"), entry.get("errnoRet"))
        if action == _NOTIFY and "write" in names:
            # Whoever answers is told of a call through a descriptor; the runtime itself has to write to pass that on.
            raise InvalidArgument("linux.seccomp.syscalls: write cannot be notified")
        found.append((names, action, [_condition(argument) for argument in entry.get("args") or []]))
    return found


def _condition(argument: Any) -> tuple[int, _Comparison]:
    operation = _COMPARISONS.get(str(argument.get("op"))) if isinstance(argument, dict) else None
    numbers = [argument.get(key, 0) for key in ("index", "value", "valueTwo")] if isinstance(argument, dict) else []
    if (
        operation is None
        or not all(isinstance(each, int) and 0 <= each < 1 << 64 for each in numbers)
        or numbers[0] > 5
    ):
        raise InvalidArgument(f"linux.seccomp.syscalls: {str(argument)[:200]} is not a condition on an argument")
    return numbers[0], _Comparison(numbers[0], operation, numbers[1], numbers[2])


def _add_rule(
    library: ctypes.CDLL, context: int, name: str, number: int, action: int, conditions: list[tuple[int, _Comparison]]
) -> None:
    """Conditions on different arguments must all hold; where one argument has several, any of all is enough."""
    indexes = [index for index, _condition in conditions]
    groups = [[each] for each in conditions] if len(set(indexes)) < len(indexes) else [conditions]
    for group in groups:
        array = (_Comparison * len(group))(*(comparison for _index, comparison in group))
        _check(library.seccomp_rule_add_array(context, action, number, len(group), array), f"seccomp rule for {name}")


def _check(result: int, step: str) -> None:
    """The library returns negative error numbers and leaves errno alone."""
    if result < 0:
        raise OSError(-result, f"{step}: {os.strerror(-result)}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


# Instructions of classic BPF (linux/bpf_common.h) and offsets in struct seccomp_data.
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_DATA_NUMBER, _DATA_ARCHITECTURE = 0, 4


def _unknown_prologue(library: ctypes.CDLL, architectures: Sequence[int], names: set[str]) -> bytes:
    """Instructions before the filter that answer ENOSYS to system calls newer than any the profile names.

    A C library tries a new call and falls back to an older one on ENOSYS, not on EPERM: without this, each new
    version of it breaks under every older profile.
    """
    program = b""
    for token in architectures:
        if token == _X32:
            continue  # the numbers of x86_64 with a bit on top; left to the filter
        last = max((library.seccomp_syscall_resolve_name_arch(token, name.encode()) for name in names), default=-1)
        if last >= 0:
            program += _unknown_block(token, last)
    return program


def _unknown_block(architecture: int, last: int) -> bytes:
    """For one architecture, past ``last`` is ENOSYS; everything else goes on behind the block."""
    test = [_instruction(_JUMP_GREATER, last, 0, 1), _instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    if architecture == _X86_64:
        test.insert(0, _instruction(_JUMP_GREATER_EQUAL, _X32_BIT, 2, 0))
    body = _instruction(_LOAD, _DATA_NUMBER) + b"".join(test)
    head = _instruction(_LOAD, _DATA_ARCHITECTURE) + _instruction(_JUMP_EQUAL, architecture, 0, len(body) // 8)
    return head + body


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
