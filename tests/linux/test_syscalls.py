"""System calls by number."""

from __future__ import annotations

import ctypes
import errno
import os
import signal

import pytest

from portside.linux.syscalls import declare, describe, encode, number


def test_a_failure_names_call_arguments_and_reason() -> None:
    call = declare("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
    with pytest.raises(OSError) as caught:
        call(b"tmpfs", b"/no/such", b"tmpfs", 0, None)
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    assert caught.value.strerror.startswith('mount("tmpfs", "/no/such", "tmpfs", 0, NULL): ')


def test_results_and_attempts() -> None:
    call = declare("getcwd", ctypes.c_char_p, ctypes.c_size_t)
    buffer = ctypes.create_string_buffer(4096)
    assert call(buffer, len(buffer)) == len(os.getcwd()) + 1
    assert call.attempt(buffer, 1) == -errno.ERANGE


def test_an_interrupted_call_is_made_again() -> None:
    call = declare("keyctl", ctypes.c_int, ctypes.c_void_p)
    calls = []

    class Interrupted:
        def __call__(self, *arguments: object) -> int:
            calls.append(arguments)
            ctypes.set_errno(errno.EINTR)
            return -1 if len(calls) < 4 else 7

    call._function = Interrupted()
    assert call(1, None) == 7
    assert len(calls) == 4


def test_numbers_are_those_of_the_kernel() -> None:
    assert number("pidfd_open") == 434
    if os.uname().machine == "x86_64":
        assert number("mount") == 165
    with pytest.raises(KeyError):
        number("no_such_call")


def test_a_nul_byte_is_refused_rather_than_cut_at() -> None:
    with pytest.raises(OSError) as caught:
        encode("/etc\0/x")
    assert caught.value.errno == errno.EINVAL
    assert encode("/\udcff") == b"/\xff"


def test_arguments_in_messages_are_bounded() -> None:
    assert len(describe(b"x" * 10_000)) < 300
    assert describe(None) == "NULL"
    assert describe(5) == "5"
    assert describe(ctypes.c_int(1)) == "<c_int>"


def test_signals_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [1]
    finally:
        signal.signal(signal.SIGUSR1, old)
