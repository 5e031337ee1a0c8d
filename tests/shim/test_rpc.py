from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.errors import NotFound
from portside.shim.loop import Loop
from portside.shim.rpc import MAX_CONNECTIONS, Call, Server
from portside.wire.ttrpc.connection import Response, TtrpcConnection
from tests.shim.conftest import Turner


class Client:
    """One peer, driven by hand."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.protocol = TtrpcConnection(client=True)
        self.answers: dict[int, Response] = {}
        self.gone = False

    def call(self, method: str, payload: bytes = b"") -> int:
        stream = self.protocol.request("s", method, payload)
        self.socket.setblocking(True)
        self.socket.sendall(self.protocol.take())
        self.socket.setblocking(False)
        return stream

    def poll(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.gone = self.gone or not data
        for event in self.protocol.receive(data):
            if isinstance(event, Response):
                self.answers[event.stream_id] = event
        return True


@pytest.fixture
def waiting() -> list[Call]:
    return []


@pytest.fixture
def server(loop: Loop, tmp_path: Path, waiting: list[Call]) -> Iterator[Server]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/s")
    listener.listen(256)

    def handle(call: Call) -> None:
        if call.method == "Wait":
            waiting.append(call)
        elif call.method == "Fail":
            raise NotFound("no such thing")
        elif call.method == "Kernel":
            os.stat("/nowhere")
        else:
            call.respond(call.payload)

    server = Server(loop, listener, handle)
    yield server
    server.close()


def test_a_call_that_waits_holds_nobody_up(turner: Turner, server: Server, tmp_path: Path, waiting: list[Call]) -> None:
    client = Client(f"{tmp_path}/s")
    wait, echo = client.call("Wait"), client.call("Echo", b"x")
    turner.until(lambda: client.poll() and echo in client.answers)
    assert client.answers[echo].payload == b"x" and wait not in client.answers
    waiting[0].respond(b"done")
    turner.until(lambda: client.poll() and wait in client.answers)
    client.socket.close()


def test_errors_keep_their_meaning(turner: Turner, server: Server, tmp_path: Path) -> None:
    client = Client(f"{tmp_path}/s")
    streams = [client.call("Fail"), client.call("Kernel")]
    turner.until(lambda: client.poll() and len(client.answers) == 2)
    assert all(isinstance(client.answers[stream].error, NotFound) for stream in streams)
    client.socket.close()


def test_an_answer_to_a_peer_that_has_gone_is_dropped(
    turner: Turner, server: Server, tmp_path: Path, waiting: list[Call]
) -> None:
    client = Client(f"{tmp_path}/s")
    client.call("Wait")
    turner.until(lambda: waiting)
    client.socket.close()
    turner.until(lambda: not server.connections)
    waiting[0].respond(b"nobody")


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(5000),
        b"GET / HTTP/1.1\r\n\r\n" * 50,
        struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0) + b"x" * 1000,
        struct.pack(">IIBB", 4, 1, 1, 0) + b"\xff\xff\xff\xff",
        struct.pack(">IIBB", 0, 2, 1, 0) * 1000,
        struct.pack(">IIBB", 0, 1, 3, 1) * 1000,
        b"\x00",
    ],
)
def test_garbage_hurts_nobody_else(turner: Turner, server: Server, tmp_path: Path, garbage: bytes) -> None:
    hostile, honest = Client(f"{tmp_path}/s"), Client(f"{tmp_path}/s")
    hostile.socket.setblocking(True)
    hostile.socket.sendall(garbage)
    stream = honest.call("Echo", b"still here")
    turner.until(lambda: honest.poll() and stream in honest.answers)
    assert honest.answers[stream].payload == b"still here"
    hostile.socket.close()
    honest.socket.close()
    turner.until(lambda: not server.connections)


def test_a_peer_that_does_not_read_is_not_read(turner: Turner, server: Server, tmp_path: Path) -> None:
    hostile, honest = Client(f"{tmp_path}/s"), Client(f"{tmp_path}/s")
    sent = 0
    try:
        for _ in range(2000):
            hostile.protocol.request("s", "Echo", bytes(60_000))
            data = hostile.protocol.take()
            while data:
                done = hostile.socket.send(data)
                data, sent = data[done:], sent + done
            alarm = turner.loop.later(0.02, lambda: None)
            turner.loop.turn()
            alarm.cancel()
    except BlockingIOError:
        pass
    assert sent < 20 << 20
    stream = honest.call("Echo", b"x")
    turner.until(lambda: honest.poll() and stream in honest.answers)
    hostile.socket.close()
    honest.socket.close()


def test_too_many_peers_wait_in_the_queue(turner: Turner, server: Server, tmp_path: Path) -> None:
    peers = [Client(f"{tmp_path}/s") for _ in range(MAX_CONNECTIONS + 3)]
    turner.until(lambda: len(server.connections) == MAX_CONNECTIONS)
    stream = peers[-1].call("Echo")
    for peer in peers[:10]:
        peer.socket.close()
    turner.until(lambda: peers[-1].poll() and stream in peers[-1].answers)
    for peer in peers:
        peer.socket.close()


def test_it_does_not_spin_when_descriptors_run_out(loop: Loop, turner: Turner, server: Server, tmp_path: Path) -> None:
    client = Client(f"{tmp_path}/s")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        loop.turn()
        before = loop.activity
        alarm = loop.later(0.01, lambda: None)
        loop.turn()
        alarm.cancel()
        assert loop.activity == before and not server.connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    stream = client.call("Echo", b"later")
    turner.until(lambda: client.poll() and stream in client.answers)
    client.socket.close()
