"""``remote/`` against real servers: the contract of ``Backend`` over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from portside.core.services import Backend
from portside.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable, Unimplemented, Unknown
from portside.remote.backend import RemoteBackend
from portside.remote.caller import Caller
from portside.wire.pb.google.protobuf.empty_pb2 import Empty
from tests.contracts.backend import BackendContract, put
from tests.support import peers
from tests.support.containerd import containerd


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with containerd(tmp_path_factory.mktemp("c")) as socket:
        yield socket


class TestUpstreamContainerd(BackendContract):
    """Debian's containerd, unmodified."""

    still_running = Unknown  # its shim of that age says no more

    @pytest.fixture
    async def backend(self, upstream: Path) -> AsyncIterator[Backend]:
        async with await RemoteBackend.connect(str(upstream)) as backend:
            yield backend


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Daemon]:
    peers.need_root()
    daemon = peers.Daemon(tmp_path_factory.mktemp("d"))
    daemon.start()
    yield daemon
    daemon.stop()


class TestOurDaemon(BackendContract):
    """Ours, as a process of its own."""

    @pytest.fixture
    async def backend(self, daemon: peers.Daemon) -> AsyncIterator[Backend]:
        async with await RemoteBackend.connect(str(daemon.socket)) as backend:
            yield backend


async def test_nobody_serves(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nobody serves"):
        await RemoteBackend.connect(str(tmp_path / "none"))


async def test_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call has a deadline; one that has none ends with the connection, whose silence is noticed."""
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: taken.append(writer), tmp_path / "s")
    async with asyncio.timeout(20):
        backend = RemoteBackend(str(tmp_path / "s"))
        caller = Caller(backend.channel, "s", "ns")
        with pytest.raises(DeadlineExceeded):
            await caller.call("M", b"", Empty, timeout=0.05)
        await backend.close()
        monkeypatch.setattr("portside.remote.backend.KEEPALIVE", 0.05)
        backend = RemoteBackend(str(tmp_path / "s"))
        with pytest.raises(Unavailable, match="PING"):
            await backend.bind("ns").tasks.wait("c")
        await backend.close()
    for writer in taken:
        writer.close()
    server.close()


async def test_what_the_protocol_cannot_say(upstream: Path) -> None:
    async with await RemoteBackend.connect(f"unix://{upstream}") as backend:
        services = backend.bind("limits")
        writer = await services.content.writer("part")
        await writer.write(b"12345")
        with pytest.raises(Unimplemented):
            await writer.truncate(3)
        await writer.truncate(5)
        await writer.close()
        await services.content.abort("part")
        with pytest.raises((InvalidArgument, NotFound)):
            await services.snapshotter("no-such").stat("x")


async def test_a_server_that_comes_back(tmp_path: Path) -> None:
    with containerd(tmp_path) as socket:
        backend = await RemoteBackend.connect(str(socket))
        digest = await put(backend.bind("default").content, b"stays")
    with pytest.raises(Unavailable):
        await backend.introspection.version()
    with containerd(tmp_path):
        assert (await backend.bind("default").content.info(digest)).size == 5
    await backend.close()
    with pytest.raises(Unavailable):
        await backend.introspection.version()
