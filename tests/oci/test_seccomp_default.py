"""The default profile as data, and in the kernel."""

import ctypes
import errno
import os
import socket

import pytest

from portside.linux import seccomp
from portside.oci.seccomp_default import default_profile
from tests.support.children import in_child

DEFAULT_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"]
CLONE_NEWUSER, CLONE_NEWNS, CLONE_THREAD = 0x10000000, 0x00020000, 0x00010000


def names(document):
    return {
        name
        for entry in document["syscalls"]
        if entry["action"] == "SCMP_ACT_ALLOW" and "args" not in entry
        for name in entry["names"]
    }


def test_no_name_is_there_twice():
    for capabilities in ([], ["CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYSLOG", "CAP_PERFMON"]):
        for entry in default_profile(capabilities, "amd64")["syscalls"]:
            assert len(entry["names"]) == len(set(entry["names"]))


def test_about_as_many_calls_as_others_allow():
    assert 340 <= len(names(default_profile([], "amd64"))) <= 380


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "setns"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ],
)
def test_a_capability_opens_its_calls(capability, call):
    assert call not in names(default_profile([], "amd64"))
    assert call in names(default_profile([capability], "amd64"))


@pytest.mark.parametrize(
    "call", ["io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "keyctl", "kexec_load", "swapon"]
)
def test_never(call):
    everything = [f"CAP_{name}" for name in ("SYS_ADMIN", "BPF", "SYS_PTRACE", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE")]
    assert call not in names(default_profile(everything, "amd64"))


def test_architectures():
    assert "SCMP_ARCH_X86" in default_profile([], "amd64")["architectures"]
    assert "arch_prctl" in names(default_profile([], "amd64"))
    assert "arch_prctl" not in names(default_profile([], "arm64"))
    assert default_profile([], "z80")["architectures"] == []
    (clone,) = [entry for entry in default_profile([], "s390x")["syscalls"] if entry["names"] == ["clone"]]
    assert clone["args"][0]["index"] == 1


@pytest.fixture(scope="module")
def compiled():
    if os.geteuid() != 0 or os.uname().machine != "x86_64":
        pytest.skip("needs root and uses numbers of x86_64")
    return seccomp.compile_filter(default_profile(DEFAULT_CAPABILITIES, "amd64"))


def errno_of(compiled, number, *arguments):
    def work():
        libc = ctypes.CDLL(None, use_errno=True)
        compiled.load()
        ctypes.set_errno(0)
        result = libc.syscall(*(ctypes.c_long(each) for each in (number, *arguments)))
        return ctypes.get_errno() if result == -1 else 0

    return in_child(work)


@pytest.mark.parametrize("family", [socket.AF_ALG, socket.AF_VSOCK, socket.AF_ALG | 1 << 32, 200])
def test_forbidden_families(compiled, family):
    assert errno_of(compiled, 41, family, socket.SOCK_SEQPACKET, 0) == errno.EPERM


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK])
def test_usual_families(compiled, family):
    assert errno_of(compiled, 41, family, socket.SOCK_DGRAM, 0) != errno.EPERM


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ([272, CLONE_NEWUSER], errno.EPERM),  # unshare
        ([56, CLONE_NEWUSER, 0, 0, 0, 0], errno.EPERM),  # clone
        ([56, CLONE_THREAD, 0, 0, 0, 0], errno.EINVAL),  # gets through, and means nothing
        ([435, 0, 0], errno.ENOSYS),  # clone3
        ([425, 1, 0], errno.EPERM),  # io_uring_setup
        ([135, 0xFFFFFFFF], 0),  # personality: which one?
        ([135, 0x0040000], errno.EPERM),  # ADDR_NO_RANDOMIZE
        ([165, 0, 0, 0, 0, 0], errno.EPERM),  # mount
        ([161, 0], errno.EFAULT),  # chroot, by its capability
        ([101, 9999, 0, 0, 0], errno.EIO),  # ptrace, an unknown request
        ([9999], errno.ENOSYS),
    ],
)
def test_calls(compiled, call, expected):
    found = errno_of(compiled, *call)
    assert found == expected or (expected == errno.EIO and found in (errno.ESRCH, errno.EPERM))


def test_a_program_notices_nothing(compiled):
    pid = os.fork()
    if pid == 0:
        compiled.load()
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.execv("/bin/sh", ["sh", "-c", "ls -l /proc/self/ | sort | head -3; sleep 0; id; (true &) ; wait"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
