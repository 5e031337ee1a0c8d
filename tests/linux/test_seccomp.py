"""Profiles compiled by the library, loaded into children of ours, judged by what the kernel then answers."""

import ctypes
import errno
import os
import signal
import stat

import pytest

from portside.errors import InvalidArgument
from portside.linux import libseccomp, seccomp
from portside.linux.seccomp import Filter, FilterCache, compile_filter, flags_of
from tests.support.children import in_child

try:
    libseccomp.version()
except Exception as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
native = pytest.mark.skipif(os.uname().machine != "x86_64", reason="uses numbers of x86_64")

GETPPID, GETPID, PERSONALITY, SOCKET, GETPGID, KEYCTL = 110, 39, 135, 41, 121, 250
WORK = ["read", "write", "close", "mmap", "munmap", "brk", "futex", "exit_group", "rt_sigaction", "rt_sigreturn"]


def profile(*rules, default="SCMP_ACT_ERRNO", **more):
    return {"defaultAction": default, "syscalls": [{"names": WORK, "action": "SCMP_ACT_ALLOW"}, *rules], **more}


def rule(names, action="SCMP_ACT_ALLOW", args=(), **more):
    return {"names": names, "action": action, "args": list(args), **more}


def arg(index, op, value, value_two=0):
    return {"index": index, "op": "SCMP_CMP_" + op, "value": value, "valueTwo": value_two}


def answers(document, *calls):
    """0 or the errno of each raw call, in a child that loaded the profile."""
    compiled = compile_filter(document)

    def work():
        libc = ctypes.CDLL(None, use_errno=True)
        compiled.load()
        found = []
        for call in calls:
            ctypes.set_errno(0)
            result = libc.syscall(*(ctypes.c_long(number) for number in call))
            found.append(ctypes.get_errno() if result == -1 else 0)
        return found

    return in_child(work)


@native
def test_default_rule_and_error_numbers():
    document = profile(rule(["getppid"]), rule(["getpgid"], "SCMP_ACT_ERRNO", errnoRet=errno.EXDEV), rule(["keyctl"]))
    assert answers(document, [GETPPID], [GETPGID, 0], [GETPID]) == [0, errno.EXDEV, errno.EPERM]


@native
def test_default_error_number():
    document = profile(rule(["keyctl"]), defaultErrnoRet=errno.EDOM)
    assert answers(document, [GETPID]) == [errno.EDOM]


@native
def test_calls_newer_than_the_profile_do_not_exist():
    document = profile(rule(["keyctl"], "SCMP_ACT_ERRNO"))
    assert answers(document, [GETPID], [KEYCTL], [KEYCTL + 1], [450], [9999]) == [
        errno.EPERM,
        errno.EPERM,
        errno.ENOSYS,
        errno.ENOSYS,
        errno.ENOSYS,
    ]


@native
def test_numbers_of_x32_are_not_taken_for_new_ones():
    """The library answers them with the default, or kills: never ENOSYS, which would hide that it is another ABI."""
    document = profile(rule(["keyctl"]), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"])
    assert answers(document, [0x40000000 + GETPID]) == [errno.EPERM]


@native
@pytest.mark.parametrize(
    ("conditions", "allowed", "refused"),
    [
        ([arg(0, "EQ", 1)], [(1, 0)], [(2, 0)]),
        ([arg(0, "NE", 1)], [(2, 0)], [(1, 0)]),
        ([arg(0, "LT", 5)], [(4, 0)], [(5, 0)]),
        ([arg(0, "LE", 5)], [(5, 0)], [(6, 0)]),
        ([arg(0, "GT", 5)], [(6, 0)], [(5, 0)]),
        ([arg(0, "GE", 5)], [(5, 0)], [(4, 0)]),
        ([arg(0, "MASKED_EQ", 0xF0, 0x10)], [(0x1F, 0)], [(0x2F, 0)]),
        ([arg(0, "EQ", 1), arg(1, "EQ", 2)], [(1, 2)], [(1, 3), (2, 2)]),
        ([arg(0, "EQ", 1), arg(0, "EQ", 2)], [(1, 0), (2, 0)], [(3, 0)]),
        ([arg(0, "EQ", (1 << 63) + 1)], [(-(1 << 63) + 1, 0)], [(1, 0)]),
    ],
)
def test_conditions(conditions, allowed, refused):
    # getpgid of a negative number is ESRCH or EINVAL once it gets through; never EPERM.
    document = profile(rule(["getpgid"], args=conditions), rule(["keyctl"]))
    found = answers(document, *([GETPGID, *each] for each in [*allowed, *refused]))
    assert [each != errno.EPERM for each in found] == [True] * len(allowed) + [False] * len(refused)


@native
def test_other_actions():
    document = profile(rule(["getppid"], "SCMP_ACT_KILL_PROCESS"), rule(["getpgid"], "SCMP_ACT_LOG"), rule(["keyctl"]))
    assert answers(document, [GETPGID, 0]) == [0]
    compiled = compile_filter(document)
    pid = os.fork()
    if pid == 0:
        compiled.load()
        os.getppid()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSYS


def test_an_allowing_default_is_left_as_it_is():
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(["getppid"], "SCMP_ACT_ERRNO")]}
    assert answers(document, [GETPID], [9999]) == [0, errno.ENOSYS]


def test_unknown_names_are_reported_once():
    compiled = compile_filter(profile(rule(["nonesuch", "getpid"]), rule(["nonesuch"])))
    assert compiled.unknown == ("nonesuch",)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"defaultAction": "ALLOW"},
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1},
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1 << 20},
        {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["x86_64"]},
        {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_Z80"]},
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]},
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": ["read"]},
        profile(rule(["read"], "SCMP_ACT_WHATEVER")),
        profile(rule(["write"], "SCMP_ACT_NOTIFY")),
        profile(rule(["read"], args=[arg(6, "EQ", 1)])),
        profile(rule(["read"], args=[arg(0, "LIKE", 1)])),
        profile(rule(["read"], args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}])),
        profile(rule(["read"], args=["x"])),
        profile(flags=["SECCOMP_FILTER_FLAG_WHATEVER"]),
        profile(flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]),
    ],
)
def test_nonsense_is_named(document):
    with pytest.raises(InvalidArgument, match=r"linux\.seccomp"):
        compile_filter(document)


def test_flags():
    assert flags_of({}) == 4
    assert flags_of({"flags": []}) == 0
    assert flags_of({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}) == 3
    assert flags_of({"flags": [], "syscalls": [rule(["getpid"], "SCMP_ACT_NOTIFY")]}) == 8


@native
def test_a_notifying_filter_returns_its_listener():
    compiled = compile_filter(profile(rule(["getppid"], "SCMP_ACT_NOTIFY"), rule(["keyctl", "fstat", "newfstatat"])))
    assert compiled.notifies

    def work():
        listener = compiled.load()
        return [listener > 2, stat.S_IFMT(os.fstat(listener).st_mode)]

    is_fd, _kind = in_child(work)
    assert is_fd


def test_a_filter_has_a_length():
    for program in (b"", b"1234", b"12345678" * 4097):
        with pytest.raises(InvalidArgument):
            Filter(program, 0)


def test_the_kernel_refuses_what_is_no_program():
    with pytest.raises(AssertionError, match="Invalid argument"):
        in_child(Filter(b"\xff" * 8, 0).load)


class TestCache:
    def test_memory_then_disk(self, tmp_path, monkeypatch):
        compiled = []
        monkeypatch.setattr(seccomp, "compile_filter", lambda document: compiled.append(1) or compile_filter(document))
        cache = FilterCache(str(tmp_path / "filters"))
        first = cache.get(profile(rule(["nonesuch"])))
        assert cache.get(profile(rule(["nonesuch"]))) is first
        again = FilterCache(str(tmp_path / "filters")).get(profile(rule(["nonesuch"])))
        assert (again.program, again.flags, again.unknown) == (first.program, first.flags, ("nonesuch",))
        assert len(compiled) == 1
        cache.get(profile(rule(["getpid"])))
        assert len(compiled) == 2
        (directory,) = tmp_path.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        assert len(list(directory.iterdir())) == 2

    @pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-8], lambda data: data[:-1] + b"\xff"])
    def test_a_damaged_file_is_compiled_anew(self, tmp_path, damage):
        good = FilterCache(str(tmp_path)).get(profile())
        (file,) = tmp_path.iterdir()
        kept = file.read_bytes()
        file.write_bytes(damage(kept))
        assert FilterCache(str(tmp_path)).get(profile()).program == good.program
        assert file.read_bytes() == kept

    def test_without_a_place_to_write(self, tmp_path):
        (tmp_path / "file").touch()
        assert FilterCache(str(tmp_path / "file" / "below")).get(profile()).program

    def test_memory_is_bounded(self):
        cache = FilterCache(limit=2)
        for code in range(5):
            cache.get(profile(defaultErrnoRet=code + 1))
        assert len(cache._known) == 2
