"""Device rules: from ``linux.resources.devices`` to lines of version 1 or to a BPF program for version 2.

Rules count in their order, the last that speaks of an access decides, and what none speaks of is denied, in both
versions alike. Pure; loading the program is the work of ``bpf``.
Sources: runtime-spec config-linux.md, *Allowed Device list*; kernel: admin-guide/cgroup-v1/devices,
bpf/prog_cgroup_device.
"""

from __future__ import annotations

import struct

from portside.errors import InvalidArgument
from portside.linux.cgroups.resources import integer, items
from portside.linux.cgroups.writes import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

MKNOD, READ, WRITE = 1, 2, 4
"""Bits of an access, as linux/bpf.h numbers them (BPF_DEVCG_ACC_…)."""
_ALL = MKNOD | READ | WRITE
_BITS = {"m": MKNOD, "r": READ, "w": WRITE}
_KINDS = {"b": 1, "c": 2}
ANY = -1


class Rule:
    """One rule: ``kind`` is ``a`` (everything, whatever number and access), ``b`` or ``c``; -1 is any number."""

    __slots__ = ("access", "allow", "kind", "major", "minor")

    def __init__(self, allow: bool, kind: str = "a", major: int = ANY, minor: int = ANY, access: int = _ALL) -> None:
        self.allow = allow
        self.kind = kind
        self.major = major
        self.minor = minor
        self.access = access

    def line(self) -> str:
        """As a line of version 1: ``c 1:3 rwm``."""
        if self.kind == "a":
            return "a *:* rwm"
        major, minor = ("*" if number == ANY else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {''.join(letter for letter in 'rwm' if self.access & _BITS[letter])}"

    def __repr__(self) -> str:
        return f"Rule({'allow' if self.allow else 'deny'} {self.line()})"


def parse_rules(devices: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """The effective rules, first to last, without those that a later rule for everything makes void.

    A leading rule for everything is always there: without one in ``devices`` it denies. InvalidArgument for nonsense.
    """
    rules = [Rule(False)]
    for device in items({"devices": list(devices)}, "devices"):
        for rule in _parse_rule(device):
            if rule.kind == "a":
                rules.clear()
            rules.append(rule)
    return rules


def _parse_rule(device: Mapping[str, Any]) -> Iterable[Rule]:
    kind = device.get("type") or "a"
    access = device.get("access") or "rwm"
    if kind == "u":
        kind = "c"  # "unbuffered" is the same thing by its older name
    if kind not in ("a", "b", "c") or not isinstance(access, str) or not set(access) <= set(_BITS):
        raise InvalidArgument(
            f"linux.resources.devices: {str(dict(device))[:200]}: want type a, b or c and access of rwm"
        )
    major, minor = _number(device, "major"), _number(device, "minor")
    bits = sum(_BITS[letter] for letter in set(access))
    allow = bool(device.get("allow"))
    if kind != "a":
        return [Rule(allow, kind, major, minor, bits)]
    if major == minor == ANY and bits == _ALL:
        return [Rule(allow)]
    # Version 1 ignores number and access where the kind is "a", so that such a rule is made two.
    return [Rule(allow, each, major, minor, bits) for each in ("b", "c")]


def _number(device: Mapping[str, Any], key: str) -> int:
    number = integer(device, key)
    if number is None or number < 0:
        return ANY
    if number >= 1 << 31:
        raise InvalidArgument(f"linux.resources.devices: {key} {number} is not a device number")
    return number


def plan_v1(rules: Sequence[Rule]) -> list[Write]:
    """The writes for version 1; the rule for everything comes first and empties what was there."""
    return [Write("devices", "devices.allow" if rule.allow else "devices.deny", rule.line()) for rule in rules]


def allows_all(rules: Sequence[Rule]) -> bool:
    """Whether nothing is ever denied, so that version 2 needs no program."""
    return all(rule.allow for rule in rules) and any(rule.kind == "a" for rule in rules)


# The instructions used below, as (code, what it does); linux/bpf.h, kernel: bpf/standardization/instruction-set.
_LOAD32 = 0x61  # dst = *(u32 *)(src + offset)
_MOVE32 = 0xBC  # dst = src
_AND32 = 0x54  # dst &= immediate
_SHIFT_RIGHT32 = 0x74  # dst >>= immediate
_JUMP = 0x05  # to offset
_JUMP_NOT_EQUAL = 0x55  # if dst != immediate
_JUMP_ANY_SET = 0x45  # if dst & immediate
_MOVE_IMMEDIATE = 0xB7  # dst = immediate
_EXIT = 0x95  # return r0
_CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR = 1, 2, 3, 4, 5  # registers; r1 holds the context when the program starts


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, target | source << 4, offset, immediate)


def _leave(allow: bool) -> bytes:
    return _instruction(_MOVE_IMMEDIATE, 0, immediate=int(allow)) + _instruction(_EXIT)


_PROLOGUE = b"".join(
    (
        _instruction(_LOAD32, _KIND, _CONTEXT, 0),  # access_type: kind in the low half, access in the high one
        _instruction(_MOVE32, _ACCESS, _KIND),
        _instruction(_AND32, _KIND, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT32, _ACCESS, immediate=16),
        _instruction(_LOAD32, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD32, _MINOR, _CONTEXT, 8),
    )
)


def program(rules: Sequence[Rule]) -> bytes:
    """The body of a BPF_PROG_TYPE_CGROUP_DEVICE program that decides as ``rules`` do.

    The last rule is asked first. An open for reading and writing is two accesses: an allowing rule takes its bits off
    the question and the earlier ones are asked for the rest, a denying rule ends it if it speaks of any bit left.
    """
    parts = [_PROLOGUE]
    for rule in reversed(rules):
        if rule.kind == "a":
            parts.append(_leave(rule.allow))
            break  # the verifier refuses instructions that nothing reaches
        parts.append(_block(rule))
    else:
        parts.append(_leave(False))
    return b"".join(parts)


def _block(rule: Rule) -> bytes:
    conditions = [(_KIND, _KINDS[rule.kind])]
    conditions += [(where, value) for where, value in ((_MAJOR, rule.major), (_MINOR, rule.minor)) if value != ANY]
    if rule.access == _ALL:
        verdict = _leave(rule.allow)
    elif rule.allow:
        verdict = _instruction(_AND32, _ACCESS, immediate=_ALL & ~rule.access)
        verdict += _instruction(_JUMP_NOT_EQUAL, _ACCESS, offset=2) + _leave(True)
    else:
        verdict = _instruction(_JUMP_ANY_SET, _ACCESS, offset=1, immediate=rule.access)
        verdict += _instruction(_JUMP, offset=2) + _leave(False)
    body = b""
    for register, value in reversed(conditions):
        body = _instruction(_JUMP_NOT_EQUAL, register, offset=(len(body) + len(verdict)) // 8, immediate=value) + body
    return body + verdict
