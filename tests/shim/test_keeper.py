"""What keeper and worker tell each other, with real sockets; the worker is a thread."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from portside.shim import keeper

WORKER = 1 << 22
"""A pid that no process has."""


class Worker(threading.Thread):
    """Deals with ``count`` exits and falls asleep."""

    def __init__(self, channel: socket.socket, count: int) -> None:
        super().__init__(daemon=True)
        self.channel, self.count = channel, count
        self.exits: list[tuple[int, int, int]] = []

    def run(self) -> None:
        while len(self.exits) < self.count:
            self.exits.append(keeper.exit_of(self.channel.recv(4096)))
            self.channel.send(keeper.DONE)
        self.channel.send(keeper.SLEEP + b"state")
        self.channel.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """Channel, the worker's end of it, and what signals arrive at."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    writer.send(b"!")
    yield ours, theirs, reader
    for end in (ours, theirs, reader, writer):
        end.close()


def test_more_exits_than_a_socket_holds_are_all_told_once_and_in_order(
    ends: tuple[socket.socket, socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, reader = ends
    exits = [(pid, 0, pid * 7) for pid in range(1, 5001)]
    waves = iter([exits])
    monkeypatch.setattr(keeper, "_reap", lambda _: next(waves, []))
    monkeypatch.setattr(os, "waitpid", lambda pid, _: (pid, 0))
    worker = Worker(theirs, len(exits))
    worker.start()
    found: list[object] = []
    watching = threading.Thread(target=lambda: found.append(keeper._watch(WORKER, ours, reader)), daemon=True)
    watching.start()
    watching.join(60)
    assert found == [(keeper.SLEEP + b"state", [], [])]
    assert worker.exits == exits


def test_what_a_dead_worker_was_told_goes_to_the_next(
    ends: tuple[socket.socket, socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fell asleep with an exit on the way to it."""
    ours, theirs, reader = ends
    waves = iter([[(7, 9, 70)], [(WORKER, 0, 80)]])
    monkeypatch.setattr(keeper, "_reap", lambda _: next(waves, []))
    theirs.send(keeper.SLEEP + b"state")
    assert keeper._watch(WORKER, ours, reader) == (keeper.SLEEP + b"state", [], [(7, 9, 70)])


def test_a_shim_that_nobody_asks_for_ends_by_itself() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert keeper.await_shim(theirs, 0.01) == (b"", -1)
        ours.close()
        assert keeper.await_shim(theirs, 20.0) == (b"", -1)


def test_one_of_those_that_wait_is_told() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.socket(socket.AF_UNIX) as listener:
        keeper.send_shim(ours, bytes(keeper.NUMBER) + b"config", listener.fileno())
        message, fd = keeper.await_shim(theirs, 20.0)
        assert message == bytes(keeper.NUMBER) + b"config"
        os.close(fd)
        keeper.answer_shim(theirs, b"12345678config")
        assert ours.recv(100) == b"12345678" + os.getpid().to_bytes(4, "little")
