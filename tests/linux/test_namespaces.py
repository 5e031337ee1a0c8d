"""Namespaces."""

from __future__ import annotations

import os
import signal

import pytest

from portside.linux import namespaces as ns
from portside.linux import pidfd, process
from tests.support.children import in_child

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")]


def test_clone_into_new_ones() -> None:
    def work() -> list[str]:
        reader, writer = os.pipe()
        pid, fd = ns.clone3(ns.CLONE_NEWPID | ns.CLONE_NEWUTS | ns.CLONE_CLEAR_SIGHAND)
        if pid == 0:
            process.set_hostname("inside")
            os.write(writer, f"{os.getpid()} {os.uname().nodename} {os.readlink('/proc/self/ns/uts')}".encode())
            os._exit(3)
        os.close(writer)
        text = os.read(reader, 1000).decode().split()
        assert pidfd.wait_exit(fd, 10)
        status = pidfd.reap(fd)
        return [*text[:2], str(text[2] != os.readlink("/proc/self/ns/uts")), str(status), os.uname().nodename]

    assert in_child(work)[:4] == ["1", "inside", "True", str(3 << 8)]


def test_kinds() -> None:
    for name, kind in (("net", ns.CLONE_NEWNET), ("pid", ns.CLONE_NEWPID), ("user", ns.CLONE_NEWUSER)):
        fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        assert ns.namespace_kind(fd) == kind
        assert ns.same_namespace(fd, name)
        os.close(fd)
    fd = os.open("/dev/null", os.O_RDONLY)
    assert ns.namespace_kind(fd) == 0
    os.close(fd)


def test_joining_by_pidfd() -> None:
    def work() -> list[str]:
        pid, fd = ns.clone3(ns.CLONE_NEWUTS | ns.CLONE_NEWIPC)
        if pid == 0:
            signal.pause()
        theirs = [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("uts", "ipc")]
        ns.setns(fd, ns.CLONE_NEWUTS | ns.CLONE_NEWIPC)
        ours = [os.readlink(f"/proc/self/ns/{name}") for name in ("uts", "ipc")]
        pidfd.send_signal(fd, signal.SIGKILL)
        pidfd.reap(fd)
        return [str(theirs == ours)]

    assert in_child(work) == ["True"]


def test_a_user_namespace_with_nobody_in_it() -> None:
    before = set(os.listdir("/proc/self/fd"))
    fd = ns.user_namespace([(0, 100000, 10)], [(0, 200000, 10)])
    assert ns.namespace_kind(fd) == ns.CLONE_NEWUSER
    assert not ns.same_namespace(fd, "user")

    def work() -> list[str]:
        ns.setns(fd, ns.CLONE_NEWUSER)
        with open("/proc/self/uid_map") as file:
            return file.read().split()

    assert in_child(work) == ["0", "100000", "10"]
    os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_map_that_cannot_be() -> None:
    with pytest.raises(OSError):
        ns.user_namespace([(0, 0, 1), (0, 5, 1)], [(0, 0, 1)])
