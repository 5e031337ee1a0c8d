"""The part of a seccomp filter that looks at numbers only, as search trees in classic BPF. Pure.

The kernel runs a new filter once for each system call there is, to know which are allowed whatever their arguments,
and translates it to machine code: a short filter loads in half the time of the library's. What
depends on arguments is left to the library, whose program follows ours.
Sources: linux/bpf_common.h, linux/seccomp.h, kernel: networking/filter, userspace-api/seccomp_filter.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Action = int | None
    Interval = tuple[int, Action]
    Instruction = tuple[int, int, int, int]

TAIL = None
"""In place of an action: the program behind ours decides."""

_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_FARTHEST = 255  # of a conditional jump
_TO_TAIL: Instruction = (_JUMP, 0, 0, 0xFFFFFFFF)  # its distance is known when all is there


def intervals(actions: Mapping[int, Action], gap: Action, last: int, beyond: Action) -> list[Interval]:
    """Where the action changes: (first number, action), ascending from 0.

    Numbers up to ``last`` that are not in ``actions`` get ``gap``, those after it ``beyond``.
    """
    changes: list[Interval] = [(0, gap)]
    expected = 0
    for number in sorted(actions):
        if number > expected:
            changes.append((expected, gap))
        changes.append((number, actions[number]))
        expected = number + 1
    if expected <= last:
        changes.append((expected, gap))
    changes.append((max(expected, last + 1), beyond))
    return merge(changes)


def merge(changes: Sequence[Interval]) -> list[Interval]:
    """Of several changes at one number the last counts; those that change nothing go."""
    latest = dict(changes)
    found: list[Interval] = []
    for start in sorted(latest):
        if not found or found[-1][1] != latest[start]:
            found.append((start, latest[start]))
    return found


def program(sections: Mapping[int, Sequence[Interval]]) -> bytes:
    """Instructions to put before another program, which decides for TAIL and for architectures not in ``sections``."""
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for architecture, changes in sections.items():
        body = [(_LOAD, 0, 0, _NUMBER), *_block(changes)]
        code += _unless_equal(architecture, len(body))
        code += body
    code.append(_TO_TAIL)
    end = len(code)
    return b"".join(
        struct.pack("=HBBI", *((_JUMP, 0, 0, end - place - 1) if instruction == _TO_TAIL else instruction))
        for place, instruction in enumerate(code)
    )


def _unless_equal(value: int, distance: int) -> list[Instruction]:
    """Pass over ``distance`` instructions unless the accumulator is ``value``."""
    if distance <= _FARTHEST:
        return [(_JUMP_EQUAL, 0, distance, value)]
    return [(_JUMP_EQUAL, 1, 0, value), (_JUMP, 0, 0, distance)]


def _block(changes: Sequence[Interval]) -> list[Instruction]:
    """A search that ends, on every way through, in a return or in a jump to the tail."""
    ends = list(dict.fromkeys(action for _start, action in changes))
    if len(changes) + len(ends) > _FARTHEST:
        middle = len(changes) // 2
        lower, upper = _block(changes[:middle]), _block(changes[middle:])
        return [(_JUMP_GREATER_EQUAL, 0, 1, changes[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]
    # One test for each change, the halves of the rest behind it; the few different ends stand behind all tests.
    tests: list[Instruction] = []
    first_end = len(changes) - 1

    def search(low: int, high: int) -> int:
        """Add the tests that tell ``changes[low:high]`` apart; the place to jump to for that."""
        if high - low == 1:
            return first_end + ends.index(changes[low][1])
        place = len(tests)
        tests.append((_JUMP_GREATER_EQUAL, 0, 0, changes[middle := (low + high) // 2][0]))
        below, from_there_on = search(low, middle), search(middle, high)
        tests[place] = (_JUMP_GREATER_EQUAL, from_there_on - place - 1, below - place - 1, changes[middle][0])
        return place

    search(0, len(changes))
    return [*tests, *(_TO_TAIL if action is None else (_RETURN, 0, 0, action) for action in ends)]
