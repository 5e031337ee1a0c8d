"""Sentences for what went wrong."""

from __future__ import annotations

import errno
import os

from portside.linux.mount import umount2
from portside.runtime.failure import RuntimeFailure


def test_one_sentence() -> None:
    assert (
        str(RuntimeFailure("start container web", 'exec "foo"', 2))
        == 'start container web: exec "foo": no such file or directory'
    )
    assert str(RuntimeFailure("a", reason="because")) == "a: because"
    assert str(RuntimeFailure("b", "c", 1).within("a")) == "a: b: c: operation not permitted"


def test_from_errors_of_python_and_of_our_calls() -> None:
    try:
        os.open("/no/such", os.O_RDONLY)
    except OSError as error:
        assert str(RuntimeFailure.of("open it", error)) == "open it: /no/such: no such file or directory"
        assert str(RuntimeFailure.of("open it", error, "it")) == "open it: it: no such file or directory"
    try:
        umount2("/no/such")
    except OSError as error:
        failure = RuntimeFailure.of("leave", error)
        assert str(failure) == 'leave: umount2("/no/such", 0): no such file or directory'
        assert failure.errno == errno.ENOENT


def test_with_words_of_their_own() -> None:
    failure = RuntimeFailure.of("limit", PermissionError(errno.EPERM, "too high"))
    assert (str(failure), failure.errno) == ("limit: too high", errno.EPERM)
