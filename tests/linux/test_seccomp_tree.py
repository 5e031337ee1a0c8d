"""Trees against a plain look-up, and whole filters against those that the library makes of the same profile."""

import errno
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.linux import libseccomp, seccomp_tree
from portside.linux.seccomp_tree import TAIL, intervals, merge, program
from portside.oci.seccomp_default import default_profile

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOW, KILL, NOSYS = 0x7FFF0000, 0, 0x00050000 | errno.ENOSYS
ENDED_BY_TAIL = 0x12345678


def run(code, architecture, number, arguments=(0, 0, 0, 0, 0, 0)):
    """Interpret a filter: what it returns for one call."""
    data = struct.pack("=iIQ6Q", number - (1 << 32) if number >> 31 else number, architecture, 0, *arguments)
    accumulator, place = 0, 0
    while True:
        kind, true, false, operand = struct.unpack_from("=HBBI", code, place * 8)
        place += 1
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif kind == 0x05:
            place += operand
        elif kind == 0x06:
            return operand
        elif kind == 0x54:
            accumulator &= operand
        else:
            holds = {
                0x15: accumulator == operand,
                0x25: accumulator > operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[kind]
            place += true if holds else false


def with_tail(sections):
    return program(sections) + struct.pack("=HBBI", 0x06, 0, 0, ENDED_BY_TAIL)


actions = st.sampled_from([ALLOW, KILL, NOSYS, 7, TAIL])


@settings(max_examples=200)
@given(
    st.dictionaries(st.integers(0, 700), actions, max_size=60), actions, st.integers(-1, 800), actions, st.booleans()
)
def test_every_number_gets_its_action(numbers, gap, last, beyond, two):
    sections = {X86_64: intervals(numbers, gap, last, beyond)}
    if two:
        sections = {AARCH64: intervals({}, KILL, -1, KILL), **sections}
    code = with_tail(sections)
    for number in [*range(0, 810, 3), *numbers, 1 << 30, (1 << 32) - 1]:
        expected = numbers.get(number, gap if number <= last or number < max(numbers, default=-1) else beyond)
        assert run(code, X86_64, number) == (ENDED_BY_TAIL if expected is TAIL else expected)
    assert run(code, X86, 1) == ENDED_BY_TAIL


@pytest.mark.parametrize("kinds", [2, 3, 256, 1000])
def test_trees_larger_than_a_jump(kinds):
    numbers = {number: number % kinds for number in range(2000)}
    code = with_tail({X86_64: intervals(numbers, TAIL, 1999, NOSYS)})
    assert all(run(code, X86_64, number) == number % kinds for number in range(2000))
    assert run(code, X86_64, 2000) == NOSYS
    assert run(code, X86, 5) == ENDED_BY_TAIL


def test_merge_drops_what_changes_nothing():
    assert merge([(5, 1), (0, 1), (3, 2), (3, 1), (9, 2)]) == [(0, 1), (9, 2)]


def library():
    try:
        libseccomp.version()
    except Exception as error:
        pytest.skip(str(error))
    if os.uname().machine != "x86_64":
        pytest.skip("uses numbers of x86_64")


def rule(names, action="SCMP_ACT_ALLOW", args=(), **more):
    return {"names": list(names), "action": action, "args": list(args), **more}


PROFILES = {
    "default": default_profile(["CAP_SYS_CHROOT"], "amd64"),
    "default for an administrator": default_profile(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"], "amd64"),
    "without x32": {**default_profile([], "amd64"), "architectures": ["SCMP_ARCH_X86"]},
    "native only": {**default_profile([], "amd64"), "architectures": []},
    "deny-list": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            rule(["mount", "socket", "ipc"], "SCMP_ACT_ERRNO", errnoRet=7),
            rule(["getpid"], "SCMP_ACT_KILL"),
            rule(["shmget"], "SCMP_ACT_LOG"),
        ],
    },
    "several actions": {
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            rule(["read", "write", "nonesuch", "accept4", "semop"]),
            rule(["personality"], args=[{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]),
            rule(["personality"], "SCMP_ACT_ERRNO", [{"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}], errnoRet=9),
            rule(["time"], "SCMP_ACT_TRAP"),
            rule(["clone3"], "SCMP_ACT_ERRNO", errnoRet=38),
        ],
    },
}
ARGUMENTS = [(0,) * 6, (1,) * 6, (8, 2, 0, 0, 0, 0), (9,) * 6, (38, 0, 0, 0, 0, 0), (40,) * 6, ((1 << 64) - 1,) * 6]


@pytest.mark.parametrize("name", PROFILES)
def test_filters_answer_as_the_librarys(name):
    """For every number of every architecture, known or not, but those that are newer than the profile."""
    library()
    profile = PROFILES[name]
    reference, _ = libseccomp.compile_profile(profile, tree=False)
    ours, _ = libseccomp.compile_profile(profile)
    newer = 0
    for architecture in (X86_64, X86, AARCH64, 0):
        for number in [*range(600), *range(0x40000000, 0x40000000 + 600), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
            for arguments in ARGUMENTS:
                expected = run(reference, architecture, number, arguments)
                found = run(ours, architecture, number, arguments)
                if found == NOSYS != expected:
                    newer += 1
                    assert number > 300
                else:
                    assert found == expected, (hex(architecture), number, arguments)
    assert bool(newer) == (profile["defaultAction"] != "SCMP_ACT_ALLOW")


def test_nothing_is_an_architecture_of_its_own():
    assert run(program({}) + struct.pack("=HBBI", 0x06, 0, 0, 5), X86_64, 0) == 5
    assert seccomp_tree.TAIL is None
