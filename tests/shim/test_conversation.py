"""What is heard of a process on its way, and in which order it is told; the process is this test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.errors import PortsideError
from portside.runtime.dialogue import LISTENER, READY, START, Channel, channel_pair
from portside.runtime.failure import RuntimeFailure
from portside.runtime.maker import Child, Undo
from portside.runtime.making import Execution
from portside.shim.conversation import Conversation
from portside.shim.loop import Loop
from portside.shim.outbox import Outbox
from portside.shim.shared import Shim
from tests.shim.conftest import Turner


class Container:
    """As much of one as an execution asks for."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def hand_listener_over(self, fd: int, pid: int) -> None:
        os.fstat(fd)


class Known:
    """Stands in ``by_pid`` for a task and remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def process_ended(self, _process: object, wait_status: int, now_ns: int) -> None:
        self.told.append((wait_status, now_ns))


@pytest.fixture
def shim(loop: Loop) -> Iterator[Shim]:
    outbox = Outbox(loop, "", "test")
    yield Shim(loop, outbox, "test", "")
    outbox.close()


def execution(undone: list[str]) -> tuple[Execution, Channel, int]:
    ours, theirs = channel_pair()
    undo = Undo()
    undo.push(undone.append, "undone")
    pidfd = os.pidfd_open(os.getpid())
    return Execution(Container(), Child(os.getpid(), pidfd, ours), undo, "exec", None), theirs, pidfd  # type: ignore[arg-type]


def test_an_end_that_is_reaped_first_is_told_after_the_start(loop: Loop, turner: Turner, shim: Shim) -> None:
    """While an agent is given the listener of a process, in a child, nobody hears that process end."""
    made, theirs, pidfd = execution([])
    known = Known()
    outcomes: list[PortsideError | None] = []

    def done(error: PortsideError | None) -> None:
        outcomes.append(error)
        shim.by_pid[os.getpid()] = (known, object())  # type: ignore[assignment]

    Conversation(shim, made, made.hand_over, done)
    theirs.send(READY)
    turner.until(lambda: _said(theirs) == START)
    with Path(__file__).open() as file:
        theirs.send(LISTENER, fd=file.fileno())
    theirs.close()
    turner.until(lambda: shim.makers)
    shim.ended(os.getpid(), 256, 42)  # as its reaper does
    assert not known.told
    turner.until(lambda: outcomes)
    assert (outcomes, known.told) == ([None], [(256, 42)])
    os.close(pidfd)


def test_one_that_dies_before_it_is_ready_is_taken_back(loop: Loop, turner: Turner, shim: Shim) -> None:
    undone: list[str] = []
    made, theirs, pidfd = execution(undone)
    outcomes: list[PortsideError | None] = []
    Conversation(shim, made, made.hand_over, outcomes.append)
    theirs.close()
    turner.until(lambda: outcomes)
    assert isinstance(outcomes[0], RuntimeFailure) and "died before it was ready" in str(outcomes[0])
    assert undone == ["undone"] and not shim.conversations
    os.close(pidfd)


def _said(channel: Channel) -> bytes:
    try:
        return channel.receive(wait=False)[0]
    except BlockingIOError:
        return b""
