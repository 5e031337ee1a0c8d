"""Rules against a plain reading of them, and against the kernel.

A small interpreter runs the program for any access; the kernel's verifier and a real group settle that it is a
program at all and means what the interpreter makes of it.
"""

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.errors import InvalidArgument
from portside.linux.cgroups import bpf, layout
from portside.linux.cgroups.devices import (
    MKNOD,
    READ,
    WRITE,
    allows_all,
    parse_rules,
    plan_v1,
    program,
)
from tests.support.children import in_child

BITS = {"m": MKNOD, "r": READ, "w": WRITE}
NULL, ZERO, FULL, RANDOM = 3, 5, 7, 8


def run(code, kind, access, major, minor):
    """Interpret the few instructions that the compiler makes."""
    instructions = [struct.unpack("<BBhi", code[at : at + 8]) for at in range(0, len(code), 8)]
    context = {0: kind | access << 16, 4: major, 8: minor}
    registers, at = {}, 0
    while True:
        opcode, pair, offset, immediate = instructions[at]
        target, source = pair & 15, pair >> 4
        at += 1
        if opcode == 0x61:
            registers[target] = context[offset]
        elif opcode == 0xBC:
            registers[target] = registers[source]
        elif opcode == 0x54:
            registers[target] &= immediate
        elif opcode == 0x74:
            registers[target] >>= immediate
        elif opcode == 0xB7:
            registers[target] = immediate
        elif opcode == 0x95:
            return bool(registers[0])
        elif opcode == 0x05:
            at += offset
        elif opcode == 0x55:
            at += offset if registers[target] != immediate else 0
        elif opcode == 0x45:
            at += offset if registers[target] & immediate else 0
        else:
            raise AssertionError(f"opcode {opcode:#x}")


def expected(devices, kind, access, major, minor):
    """Each bit by itself: the last rule that speaks of it decides; none, no."""
    for bit in (MKNOD, READ, WRITE):
        if access & bit:
            verdict = False
            for device in devices:
                speaks = (
                    device.get("type", "a") in ("a", kind)
                    and device.get("major", -1) in (-1, major)
                    and device.get("minor", -1) in (-1, minor)
                    and any(BITS[letter] == bit for letter in device.get("access", "rwm"))
                )
                verdict = device["allow"] if speaks else verdict
            if not verdict:
                return False
    return True


device = st.fixed_dictionaries(
    {"allow": st.booleans()},
    optional={
        "type": st.sampled_from("abc"),
        "major": st.integers(-1, 2),
        "minor": st.integers(-1, 2),
        "access": st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"]),
    },
)


@settings(max_examples=300)
@given(st.lists(device, max_size=6))
def test_the_program_means_what_the_rules_say(devices):
    code = program(parse_rules(devices))
    for kind in "bc":
        for access in range(1, 8):
            for number in ((0, 0), (1, 2), (2, 1), (7, 7)):
                verdict = run(code, {"b": 1, "c": 2}[kind], access, *number)
                assert verdict == expected(devices, kind, access, *number), (devices, kind, access, number)


@settings(max_examples=25, deadline=None)
@given(st.lists(device, max_size=8))
def test_the_verifier_takes_every_program(devices):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.close(bpf.load_device_program(program(parse_rules(devices))))


def test_version_1_lines():
    devices = [
        {"allow": True, "type": "c", "major": 5, "access": "rw"},  # void: everything is denied next
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": True, "type": "b", "access": "m"},
        {"allow": False, "access": "w", "major": 10},
    ]
    writes = [f"{write.file} {write.value}" for write in plan_v1(parse_rules(devices))]
    assert writes == [
        "devices.deny a *:* rwm",
        "devices.allow c 1:3 rwm",
        "devices.allow b *:* m",
        "devices.deny b 10:* w",
        "devices.deny c 10:* w",
    ]


def test_without_a_rule_for_everything_all_else_is_denied():
    writes = plan_v1(parse_rules([{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}]))
    assert [write.value for write in writes] == ["a *:* rwm", "c 1:3 r"]
    assert writes[0].file == "devices.deny"


def test_privileged_needs_no_program():
    assert allows_all(parse_rules([{"allow": False}, {"allow": True, "access": "rwm"}]))
    assert not allows_all(parse_rules([{"allow": True}, {"allow": False, "type": "c", "major": 1}]))
    assert not allows_all(parse_rules([]))


@pytest.mark.parametrize(
    "bad",
    [
        {"allow": True, "type": "p"},
        {"allow": True, "type": "c", "access": "rx"},
        {"allow": True, "type": "c", "major": "1"},
        {"allow": True, "type": "c", "major": 1 << 40},
    ],
)
def test_nonsense(bad):
    with pytest.raises(InvalidArgument):
        parse_rules([bad])


def opens(group, attempts):
    """In a child that joined ``group``: which of (device, flags) may be opened."""

    def work():
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")
        results = []
        for path, flags in attempts:
            try:
                os.close(os.open(path, flags))
                results.append(True)
            except PermissionError:
                results.append(False)
        return results

    return in_child(work)


@pytest.fixture
def v2_group():
    if os.geteuid() != 0 or not layout().v2:
        pytest.skip("needs root and a cgroup2 mount")
    path = f"{layout().v2}/portside-test-bpf-{os.getpid()}"
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield path, fd
    os.close(fd)
    os.rmdir(path)


ATTEMPTS = [
    ("/dev/null", os.O_RDWR),
    ("/dev/zero", os.O_RDONLY),
    ("/dev/zero", os.O_RDWR),
    ("/dev/full", os.O_WRONLY),
    ("/dev/random", os.O_RDONLY),
]


def test_the_kernel_agrees(v2_group):
    path, fd = v2_group
    rules = parse_rules(
        [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": NULL, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": ZERO, "access": "r"},
            {"allow": True, "type": "c", "major": 1, "minor": FULL, "access": "rw"},
            {"allow": False, "type": "c", "major": 1, "minor": FULL, "access": "w"},
        ]
    )
    bpf.replace_device_filter(fd, program(rules))
    assert opens(path, ATTEMPTS) == [True, True, False, False, False]


def test_a_filter_replaces_ours_and_leaves_others_alone(v2_group):
    path, fd = v2_group
    deny_null = program(parse_rules([{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": NULL}]))
    deny_zero = program(parse_rules([{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": ZERO}]))
    bpf.replace_device_filter(fd, deny_null)
    first = bpf.attached_programs(fd)
    bpf.replace_device_filter(fd, deny_zero)
    second = bpf.attached_programs(fd)
    assert len(first) == len(second) == 1
    assert first != second
    assert opens(path, ATTEMPTS) == [True, False, False, True, True]
    bpf.replace_device_filter(fd, None)
    bpf.replace_device_filter(fd, None)
    assert bpf.attached_programs(fd) == []
