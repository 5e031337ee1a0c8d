"""Forked children: what changes a process for good (capabilities, filters, groups) is tried in one of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def in_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns (as JSON) in a forked child; its exception becomes AssertionError with the text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"value": work()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            os.write(writer, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        data = b"".join(iter(lambda: os.read(reader, 65536), b""))
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    assert data, f"the child ended with status {status:#x} and said nothing"
    answer = json.loads(data)
    assert "error" not in answer, answer["error"]
    return answer["value"]


@contextmanager
def sleeper() -> Iterator[int]:
    """The pid of a child that does nothing; killed and reaped at the end, if it is still there."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                signal.pause()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
