"""libseccomp by ctypes: an OCI ``linux.seccomp`` object becomes the bytes of a filter program.

Compiling costs milliseconds and memory, so that its results are kept (``seccomp.FilterCache``); what runs between
clone and exec loads bytes and needs nothing of this. Sources: libseccomp's manual pages, runtime-spec
config-linux.md, *Seccomp*.
"""

from __future__ import annotations

import ctypes
import errno
import os

from portside.errors import FailedPrecondition, InvalidArgument
from portside.linux import seccomp_tree

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
_MULTIPLEXERS = ("socketcall", "ipc")
_MULTIPLEXED_NUMBERS = range(-299, -100)
"""What the library calls, on some architectures, the calls behind these two."""


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


class _Rule:
    """An entry of ``syscalls``, checked: ``conditions`` are (index of the argument, comparison)."""

    __slots__ = ("action", "conditions", "names")

    def __init__(self, names: list[str], action: int, conditions: list[tuple[int, _Comparison]]) -> None:
        self.names = names
        self.action = action
        self.conditions = conditions


def compile_profile(profile: Mapping[str, Any], *, tree: bool = True) -> tuple[bytes, list[str]]:
    """The filter program for an OCI ``linux.seccomp`` object, and the system calls in it that nobody here knows.

    The library compiles what looks at arguments; before that go our search trees over numbers, which also answer
    ENOSYS to calls newer than any that the profile names: a C library tries a new call and falls back to an older one
    on ENOSYS, not on EPERM, so that each new version of it would break under every older profile. Without ``tree`` the
    library compiles all, and nothing is ENOSYS.

    InvalidArgument for a profile that means nothing; OSError if the library or the kernel refuses it.
    """
    library = _load()
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"))
    if default == _NOTIFY:
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default")
    architectures, rules = _architectures(library, profile), _rules(profile)
    if not tree:
        return _library_program(library, default, architectures, rules), []
    names = dict.fromkeys(name for rule in rules for name in rule.names)
    unknown = [name for name in names if library.seccomp_syscall_resolve_name(name.encode()) == _UNKNOWN_SYSCALL]
    left = _left_to_library(library, architectures, rules)
    head = seccomp_tree.program(_sections(library, default, architectures, rules, left))
    rest = [_Rule([name for name in rule.names if name in left], rule.action, rule.conditions) for rule in rules]
    return head + _library_program(library, default, architectures, rest), unknown


def _left_to_library(library: ctypes.CDLL, architectures: Sequence[int], rules: Sequence[_Rule]) -> set[str]:
    """The calls whose answer does not follow from their number.

    That is: those with conditions, those with several actions, and those that some architecture passes through one
    call (socketcall, ipc) that tells them apart by its first argument; the library gives these numbers of its own.
    """
    left, actions = set(_MULTIPLEXERS), dict[str, int]()
    for rule in rules:
        for name in rule.names:
            if rule.conditions or actions.setdefault(name, rule.action) != rule.action:
                left.add(name)
    for token in architectures:
        left.update(
            name
            for name in actions
            if library.seccomp_syscall_resolve_name_arch(token, name.encode()) in _MULTIPLEXED_NUMBERS
        )
    return left


def _sections(
    library: ctypes.CDLL, default: int, architectures: Sequence[int], rules: Sequence[_Rule], left: set[str]
) -> dict[int, list[seccomp_tree.Interval]]:
    """For each architecture the actions by number."""
    sections: dict[int, list[seccomp_tree.Interval]] = {}
    for token in architectures:

        def number(name: str, token: int = token) -> int:
            found: int = library.seccomp_syscall_resolve_name_arch(token, name.encode())
            return found

        actions: dict[int, seccomp_tree.Action] = {
            number(name): seccomp_tree.TAIL if name in left else rule.action for rule in rules for name in rule.names
        }
        actions = {key: action for key, action in actions.items() if key >= 0}
        multiplexes = any(number(name) >= 0 for name in _MULTIPLEXERS)
        gap = seccomp_tree.TAIL if multiplexes else default
        last = max(actions, default=-1)
        keep = default in (_ALLOW, _ERRNO | errno.ENOSYS) or last < 0
        beyond = gap if keep else _ERRNO | errno.ENOSYS
        if token == _X32:
            actions = {key - _X32_BIT: action for key, action in actions.items()}
            sections[token] = seccomp_tree.intervals(actions, gap, last - _X32_BIT, seccomp_tree.TAIL)
        else:
            sections[token] = seccomp_tree.intervals(actions, gap, last, beyond)
    return _with_x32(sections)


def _with_x32(sections: dict[int, list[seccomp_tree.Interval]]) -> dict[int, list[seccomp_tree.Interval]]:
    """x32 is x86_64 with a bit on top of the number; what is not asked for is left to the library, which kills."""
    x32 = sections.pop(_X32, [(0, seccomp_tree.TAIL)])
    if _X86_64 in sections:
        above = [(start + _X32_BIT, action) for start, action in x32]
        sections[_X86_64] = seccomp_tree.merge([*sections[_X86_64], *above])
    return sections


def _library_program(library: ctypes.CDLL, default: int, architectures: Sequence[int], rules: Sequence[_Rule]) -> bytes:
    context = library.seccomp_init(default)
    if not context:
        raise OSError(errno.EINVAL, f"seccomp_init({default:#x}): the library refuses the default action")
    try:
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)  # an older library stays with its linear search
        for token in architectures[1:]:
            _check(library.seccomp_arch_add(context, token), f"seccomp_arch_add({token:#x})")
        for rule in rules:
            for name in rule.names if rule.action != default else []:
                number = library.seccomp_syscall_resolve_name(name.encode())
                if number != _UNKNOWN_SYSCALL:
                    _add_rule(library, context, name, number, rule)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


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


def _architectures(library: ctypes.CDLL, profile: Mapping[str, Any]) -> list[int]:
    """The library's numbers: the machine's own architecture, for which a filter always holds, then those listed."""
    found = [library.seccomp_arch_native()]
    for name in profile.get("architectures") or []:
        token = library.seccomp_arch_resolve_name(str(name).removeprefix("SCMP_ARCH_").lower().encode())
        if not str(name).startswith("SCMP_ARCH_") or not token:
            raise InvalidArgument(f"linux.seccomp.architectures: {str(name)[:80]!r} is not an architecture")
        if token not in found:
            found.append(token)
    return found


def _rules(profile: Mapping[str, Any]) -> list[_Rule]:
    found = []
    for entry in profile.get("syscalls") or []:
        names = entry.get("names") if isinstance(entry, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidArgument("linux.seccomp.syscalls: each entry needs a list of names")
        action = _action(entry.get("action"), entry.get("errnoRet"))
        if action == _NOTIFY and "write" in names:
            # Whoever answers is told of a call through a descriptor; the runtime itself has to write to pass that on.
            raise InvalidArgument("linux.seccomp.syscalls: write cannot be notified")
        found.append(_Rule(names, action, [_condition(argument) for argument in entry.get("args") or []]))
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


def _add_rule(library: ctypes.CDLL, context: int, name: str, number: int, rule: _Rule) -> None:
    """Conditions on different arguments must all hold; where one argument has several, any of all is enough."""
    indexes = [index for index, _comparison in rule.conditions]
    one_by_one = len(set(indexes)) < len(indexes)
    groups = [[each] for each in rule.conditions] if one_by_one else [rule.conditions]
    for group in groups:
        array = (_Comparison * len(group))(*(comparison for _index, comparison in group))
        result = library.seccomp_rule_add_array(context, rule.action, number, len(group), array)
        _check(result, f"seccomp rule for {name}")


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
