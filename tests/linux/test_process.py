"""What a process changes about itself, tried in children."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from portside.linux import pidfd, process
from tests.support.children import in_child, sleeper


def test_dumpable() -> None:
    def work() -> list[int]:
        process.set_dumpable(0)
        return [process.dumpable()]

    assert in_child(work) == [0]
    assert process.dumpable() == 1


def test_closing_all_but_some() -> None:
    def work() -> list[bool]:
        fds = [os.open("/", os.O_RDONLY) for _ in range(6)]
        process.close_all_but([0, 1, 2, fds[1], fds[4], -1, *_pipes()])
        return [_is_open(fd) for fd in fds]

    assert in_child(work) == [False, True, False, False, True, False]


def _pipes() -> list[int]:
    """Every pipe, since ``in_child`` reports by one."""
    return [int(number) for number in os.listdir("/proc/self/fd") if _target(number).startswith("pipe:")]


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_closing_without_the_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(1, "filtered")

    monkeypatch.setattr(process, "_close_range", refuse)

    def work() -> list[bool]:
        fds = [os.open("/", os.O_RDONLY) for _ in range(3)]
        os.set_inheritable(fds[2], True)
        process.close_range(fds[0], fds[1])
        process.close_range(fds[2], fds[2], process.CLOSE_RANGE_CLOEXEC)
        return [_is_open(fds[0]), _is_open(fds[1]), os.get_inheritable(fds[2])]

    assert in_child(work) == [False, False, False]


def test_signals_as_for_a_new_program() -> None:
    def work() -> str:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        process.reset_signals()
        with open("/proc/self/status") as file:
            return "".join(line for line in file if line.startswith(("SigBlk", "SigIgn")))

    assert set(in_child(work).split()) == {"SigBlk:", "SigIgn:", "0000000000000000"}


def test_no_new_privileges() -> None:
    def work() -> str:
        process.set_no_new_privileges()
        with open("/proc/self/status") as file:
            return next(line for line in file if line.startswith("NoNewPrivs")).split()[1]

    assert in_child(work) == "1"


def test_working_directory() -> None:
    assert process.working_directory() == os.getcwd()

    def work() -> str:
        os.mkdir(f"/tmp/gone-{os.getpid()}")
        os.chdir(f"/tmp/gone-{os.getpid()}")
        os.rmdir(f"/tmp/gone-{os.getpid()}")
        try:
            process.working_directory()
        except FileNotFoundError:
            return "gone"
        return "there"

    assert in_child(work) == "gone"


def test_threads_are_counted() -> None:
    before = process.thread_count()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert process.thread_count() == before + 1
    stop.set()
    thread.join()


def test_processes_by_descriptor() -> None:
    with sleeper() as pid:
        fd = pidfd.pidfd_open(pid)
        assert not pidfd.wait_exit(fd, 0)
        pidfd.send_signal(fd, signal.SIGTERM)
        assert pidfd.wait_exit(fd, 10)
        assert pidfd.reap(fd) == signal.SIGTERM
        assert pidfd.reap(fd) is None
        with pytest.raises(ProcessLookupError):
            pidfd.send_signal(fd, signal.SIGTERM)
        os.close(fd)
