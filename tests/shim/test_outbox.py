from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.shim.loop import READ, Loop
from portside.shim.outbox import MAX_UNREAD, SEQUENCE_KEY, Outbox
from portside.wire.codec import decode
from portside.wire.tables import containerd_events
from portside.wire.tables.containerd_services_events_ttrpc_v1 import ForwardRequest
from portside.wire.ttrpc.connection import Closed, Request, TtrpcConnection
from tests.shim.conftest import Turner


class Daemon:
    """The other end: takes events and acknowledges them, or does not."""

    def __init__(self, loop: Loop, path: str) -> None:
        self.loop = loop
        self.pids: list[int] = []
        self.numbers: list[str] = []
        self.acknowledges = True
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._path = path
        self._peers: list[socket.socket] = []
        loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, _ready: int) -> None:
        peer, _ = self._listener.accept()
        self._peers.append(peer)
        protocol = TtrpcConnection(client=False)

        def readable(_ready: int) -> None:
            for event in protocol.receive(peer.recv(65536)):
                if isinstance(event, Closed):
                    self.loop.forget(peer.fileno())
                if isinstance(event, Request):
                    envelope = decode(ForwardRequest, event.payload)["envelope"]
                    assert envelope["namespace"] == "ns" and envelope["topic"] == "/tasks/start"
                    self.pids.append(decode(containerd_events.TaskStart, envelope["event"]["value"])["pid"])
                    self.numbers.append(event.metadata[SEQUENCE_KEY])
                    if self.acknowledges:
                        protocol.respond(event.stream_id, b"")
            peer.send(protocol.take())

        self.loop.watch(peer.fileno(), READ, readable)

    def die(self) -> None:
        for end in (self._listener, *self._peers):
            self.loop.forget(end.fileno())
            end.close()
        os.unlink(self._path)


@pytest.fixture
def outbox(loop: Loop, tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(loop, f"unix://{tmp_path}/events", "ns")
    yield outbox
    outbox.close()


def emit(outbox: Outbox, *pids: int) -> None:
    for pid in pids:
        outbox.emit("/tasks/start", "TaskStart", {"container_id": "c", "pid": pid})


def test_events_arrive_in_order_and_are_forgotten_when_acknowledged(
    loop: Loop, turner: Turner, outbox: Outbox, tmp_path: Path
) -> None:
    daemon = Daemon(loop, f"{tmp_path}/events")
    emit(outbox, *range(100))
    turner.until(lambda: outbox.idle)
    assert daemon.pids == list(range(100))
    daemon.die()


def test_what_was_not_acknowledged_is_sent_again_to_the_next_daemon(
    loop: Loop, turner: Turner, outbox: Outbox, tmp_path: Path
) -> None:
    emit(outbox, 1)  # before there is any daemon
    first = Daemon(loop, f"{tmp_path}/events")
    outbox.retry()
    turner.until(lambda: outbox.idle)
    first.acknowledges = False
    emit(outbox, 2, 3)
    turner.until(lambda: first.pids == [1, 2, 3])
    first.die()
    emit(outbox, 4)
    second = Daemon(loop, f"{tmp_path}/events")
    turner.until(lambda: outbox.idle)
    assert second.pids == [2, 3, 4]
    assert second.numbers[:2] == first.numbers[1:]
    second.die()


def test_a_queue_that_nobody_empties_is_bounded(
    loop: Loop, turner: Turner, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portside.shim.outbox.MAX_KEPT", 10)
    emit(outbox, *range(25))
    assert outbox.lost == 15
    daemon = Daemon(loop, f"{tmp_path}/events")
    outbox.retry()
    turner.until(lambda: outbox.idle)
    assert daemon.pids == list(range(15, 25))
    daemon.die()


def test_without_an_address_nothing_is_kept(loop: Loop) -> None:
    outbox = Outbox(loop, "", "ns")
    emit(outbox, 1)
    assert outbox.idle


def test_a_daemon_that_does_not_read_is_not_sent_everything(
    loop: Loop, turner: Turner, outbox: Outbox, tmp_path: Path
) -> None:
    daemon = Daemon(loop, f"{tmp_path}/events")
    emit(outbox, 0)
    turner.until(lambda: outbox.idle)
    for pid in range(1, 41):  # 4 MB, while nobody turns the daemon's loop
        outbox.emit("/tasks/start", "TaskStart", {"container_id": "c" * 100_000, "pid": pid})
        assert len(outbox._out) < MAX_UNREAD + 200_000
    turner.until(lambda: outbox.idle)
    assert daemon.pids == list(range(41))
    daemon.die()
