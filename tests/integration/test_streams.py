"""The Streaming service at its door: what a client may do wrong, and what of it stays (nothing)."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from portside.api.containerd import streaming, transfer, transfer_streams
from portside.api.containerd.methods import containerd_methods
from portside.convert.transfer import image_store_to_pb, snapshot_to_pb
from portside.core.anymessage import AnyMessage
from portside.core.settings import ImageVerifiers
from portside.core.transfer import (
    ImageExportStream,
    ImageImportStream,
    ImageReference,
    ImageStore,
    OCIRegistry,
    Progress,
    Snapshot,
)
from portside.engine.engine import EngineConfig
from portside.engine.engine import LocalBackend as Engine
from portside.engine.outside import Outside
from portside.engine.services import LocalServices
from portside.engine.streaming import BUFFER, StreamManager
from portside.engine.transfer.config import TransferConfig
from portside.engine.transfer.service import Transfers
from portside.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PortsideError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from portside.oci.platform import Platform
from portside.remote.backend import RemoteBackend
from portside.remote.caller import Caller
from portside.remote.streaming import SERVICE
from portside.remote.transfer import SERVICE as TRANSFER
from portside.wire.grpc.client_call import Call
from portside.wire.grpc.server import GrpcServer
from portside.wire.pb.containerd.services.streaming.v1 import streaming_pb2 as pb
from portside.wire.pb.containerd.services.transfer.v1 import transfer_pb2
from portside.wire.pb.containerd.types.transfer import importexport_pb2
from portside.wire.pb.google.protobuf import any_pb2, empty_pb2
from tests.contracts.local import LocalBackend
from tests.contracts.transfer import at
from tests.support import images
from tests.support.peers import need_root

pytestmark = pytest.mark.root


class Stores(LocalBackend):
    """An engine's stores with streams and transfers, without the parts that run containers."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "root")
        self.streams = StreamManager()
        self.streams.watch(self.metadata)
        self._shared = Transfers(self.streams, TransferConfig())
        self._outside = Outside(ImageVerifiers(directory / "verifiers"))

    def bind(self, namespace: str, lease: str = "") -> LocalServices:
        return LocalServices(
            namespace, lease, self.metadata, self.exchange, _no_tasks, self._outside, transfers=self._shared
        )


def _no_tasks(namespace: str) -> NoReturn:
    pytest.fail("a test of stores asked for tasks")


class Served:
    """The stores and their door in this process, so that a test sees both sides."""

    def __init__(self, engine: Stores, server: GrpcServer, remote: RemoteBackend) -> None:
        self.engine, self.server, self.remote = engine, server, remote
        self.streams = engine.streams

    def call(self, namespace: str = "default") -> Call[any_pb2.Any]:
        return Caller(self.remote.channel, SERVICE, namespace).dialogue("Stream", any_pb2.Any)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    need_root()
    engine = Stores(tmp_path)
    server = GrpcServer(containerd_methods(engine))
    with tempfile.TemporaryDirectory(prefix="portside") as short:
        await server.listen_unix(str(Path(short, "socket")))
        async with await RemoteBackend.connect(str(Path(short, "socket"))) as remote:
            yield Served(engine, server, remote)
        await server.drain(5)
    await engine.close()


def init(id: str) -> any_pb2.Any:
    return any_pb2.Any(type_url=pb.StreamInit.DESCRIPTOR.full_name, value=pb.StreamInit(id=id).SerializeToString())


async def until(condition: Callable[[], bool]) -> None:
    """The two sides have talked until it is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("first", "error", "text"),
    [
        (any_pb2.Any(type_url="google.protobuf.Empty"), InvalidArgument, "containerd.services.streaming.v1.StreamInit"),
        (any_pb2.Any(type_url=init("").type_url, value=b"\xff"), InvalidArgument, "cannot be decoded"),
        (any_pb2.Any(), InvalidArgument, "is wanted"),
        (init(""), InvalidArgument, "want an id"),
        (init("x" * 5000), InvalidArgument, "want an id"),
        (None, InvalidArgument, "ended before its first message"),
    ],
)
async def test_a_first_message_that_is_none(
    served: Served, first: any_pb2.Any | None, error: type[PortsideError], text: str
) -> None:
    async with served.call() as call:
        if first is None:
            await call.done_writing()
        else:
            await call.send(first)
        with pytest.raises(error, match=text):
            await call.recv()
    assert len(served.streams) == 0


async def test_a_namespace_is_needed(served: Served) -> None:
    async with served.call("") as call:
        await call.send(init("x"))
        with pytest.raises(FailedPrecondition, match="namespace is required"):
            await call.recv()


async def test_a_client_that_says_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "INIT_SECONDS", 0.01)
    async with served.call() as call:
        with pytest.raises(DeadlineExceeded, match="no first message"):
            await call.recv()


async def test_type_urls_with_a_host_are_the_same(served: Served) -> None:
    """Some languages' libraries write ``type.googleapis.com/`` before the name."""
    first = init("x")
    first.type_url = "type.googleapis.com/" + first.type_url
    async with served.call() as call:
        await call.send(first)
        answer = await call.recv()
        assert answer is not None and answer.type_url == "google.protobuf.Empty"


async def test_messages_both_ways_and_the_end(served: Served) -> None:
    made = await served.remote.bind("default").streaming.create("both")
    taken = await served.engine.bind("default").streaming.take("both")
    for number in range(50):
        await made.send(AnyMessage("to.Server", b"%d" % number))
        await taken.send(AnyMessage("to.Client", b"%d" % number))
    assert [(await taken.recv()).value for _ in range(50)] == [b"%d" % number for number in range(50)]  # type: ignore[union-attr]
    await made.end()
    assert await taken.recv() is None
    await taken.close()
    assert [(await made.recv()).value for _ in range(50)] == [b"%d" % number for number in range(50)]  # type: ignore[union-attr]
    assert await made.recv() is None
    await made.close()
    assert len(served.streams) == 0


async def test_a_client_that_goes_away(served: Served) -> None:
    made = await served.remote.bind("default").streaming.create("gone")
    taken = await served.engine.bind("default").streaming.take("gone")
    waiting = asyncio.create_task(taken.recv())
    await made.fail("no more")
    with pytest.raises(Cancelled, match="its client went away"):
        await waiting
    await until(lambda: len(served.streams) == 0)
    with pytest.raises(NotFound):
        await served.engine.bind("default").streaming.take("gone")


async def test_a_flood_into_a_stream_that_nobody_takes(served: Served) -> None:
    """It waits at the door: the client cannot send on, and the server holds no more than its buffer."""
    made = await served.remote.bind("default").streaming.create("flood")

    async def flood() -> None:
        while True:
            await made.send(AnyMessage("test.Data", bytes(64 << 10)))

    flooding = asyncio.create_task(flood())
    (named,) = served.streams._streams.values()
    await until(lambda: named.end._in.size >= BUFFER)
    for _ in range(200):
        await asyncio.sleep(0)
    assert named.end._in.size <= BUFFER + (65 << 10)
    assert not flooding.done()
    flooding.cancel()
    await made.fail("enough")
    await until(lambda: len(served.streams) == 0)


async def test_a_message_that_is_too_large(served: Served) -> None:
    made = await served.remote.bind("default").streaming.create("large")
    taken = await served.engine.bind("default").streaming.take("large")
    with pytest.raises(Cancelled):
        await made.send(AnyMessage("test.Data", bytes(20 << 20)))
        await made.recv()
    with pytest.raises(Cancelled):
        await taken.recv()
    await until(lambda: len(served.streams) == 0)


async def test_an_ending_server_does_not_wait_for_streams(served: Served) -> None:
    made = await served.remote.bind("default").streaming.create("open")
    async with asyncio.timeout(10):
        await served.server.drain(60)
    with pytest.raises(Cancelled):
        while await made.recv() is not None:
            pass


async def test_more_than_the_window_is_refused(served: Served) -> None:
    """A client that sends without leave is told so, by the transfer that reads from it."""
    remote = served.remote.bind("default")
    made = await remote.streaming.create("greedy")
    value = importexport_pb2.ImageImportStream(stream="greedy").SerializeToString()
    chunk = AnyMessage("containerd.types.transfer.Data", b"\x0a\x80\x80\x08" + bytes(128 << 10))
    objects = transfer._Objects(served.engine.bind("default").streaming)
    async with objects:
        end = await objects.convert(
            any_pb2.Any(type_url="containerd.types.transfer.ImageImportStream", value=value), "source"
        )
        assert isinstance(end, ImageImportStream)
        await made.send(chunk)
        with pytest.raises(ResourceExhausted, match="more than it has leave to"):
            await anext(end.chunks)
    await made.close()


async def test_progress_of_many_objects_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads it, for ever: the newest of each object is kept, up to a limit, and closing does not hang."""
    monkeypatch.setattr(transfer_streams, "MAX_PENDING", 100)
    monkeypatch.setattr(transfer_streams, "FLUSH_SECONDS", 0.01)
    made = await served.engine.bind("default").streaming.create("unread")
    objects = transfer._Objects(served.engine.bind("default").streaming)
    async with objects:
        put = await objects.progress("unread")
        assert put is not None and objects._progress is not None
        for number in range(20_000):
            put(Progress("downloading", f"layer-{number % 5000}", (), number, 20_000))
            if number % 100 == 0:
                await asyncio.sleep(0)
        assert len(objects._progress._pending) <= 100
    while (message := await made.recv()) is not None:
        assert message.type_name == "containerd.types.transfer.Progress"


async def test_an_image_that_a_verifier_does_not_want(
    served: Served, registry: str, busybox: str, tmp_path: Path
) -> None:
    program = tmp_path / "verifiers/refuse"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho not on a Tuesday\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(PermissionDenied, match="not on a Tuesday"):
        await served.remote.bind("default").transfer.transfer(at(busybox), ImageStore(busybox))
    assert list(await served.remote.bind("default").images.list()) == []


async def test_a_door_without_the_plugins(tmp_path: Path) -> None:
    need_root()
    disabled = ("io.containerd.streaming.v1.manager", "io.containerd.transfer.v1.local")
    engine = await Engine.open(EngineConfig(tmp_path / "root", tmp_path / "state", disabled_plugins=disabled))
    try:
        with pytest.raises(Unimplemented, match=r"io\.containerd\.streaming\.v1\.manager"):
            await engine.bind("default").streaming.create("x")
        with pytest.raises(Unimplemented, match=r"io\.containerd\.transfer\.v1\.local"):
            await engine.bind("default").transfer.transfer(OCIRegistry("a/b:1"), ImageStore("x"))
    finally:
        await engine.close()


async def test_a_write_that_fails_ends_an_export(served: Served, busybox: str) -> None:
    """The caller's own error comes out, and the server stops."""
    services = served.remote.bind("default")
    await services.transfer.transfer(at(busybox), ImageStore(busybox))

    async def full(data: bytes) -> None:
        raise OSError(28, "no space left")

    with pytest.raises(OSError, match="no space left"):
        await services.transfer.transfer(ImageStore(busybox), ImageExportStream(full))
    await until(lambda: len(served.streams) == 0)
    assert list(await services.leases.list()) == []


async def quiet(served: Served) -> None:
    """Nothing is held, written or open any more."""
    services = served.engine.bind("default")

    async def is_quiet() -> bool:
        return not (len(served.streams) or await services.leases.list() or await services.content.list_statuses())

    await until_async(is_quiet)


async def test_an_import_that_is_given_up_in_the_middle(served: Served) -> None:
    """Of a blob that was half there nothing is left, nor a lease."""
    data = images.tar_layer({"blobs/sha256/" + "0" * 64: os.urandom(1 << 20)})
    sent = asyncio.Event()

    async def archive() -> AsyncIterator[bytes]:
        yield data[: 1 << 19]
        sent.set()
        await asyncio.Event().wait()

    services = served.remote.bind("default")
    destination = ImageStore(extra_references=(ImageReference("x", is_prefix=True),))
    work = asyncio.create_task(services.transfer.transfer(ImageImportStream(archive()), destination))
    await sent.wait()
    local = served.engine.bind("default")
    await until_async(lambda: local.content.list_statuses())
    assert len(await local.leases.list()) == 2  # that of the import, and that of its stream
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await quiet(served)


async def test_an_export_that_is_given_up_in_the_middle(served: Served, busybox: str) -> None:
    services = served.remote.bind("default")
    await services.transfer.transfer(at(busybox), ImageStore(busybox))
    begun = asyncio.Event()

    async def never(data: bytes) -> None:
        begun.set()
        await asyncio.Event().wait()

    work = asyncio.create_task(services.transfer.transfer(ImageStore(busybox), ImageExportStream(never)))
    await begun.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await quiet(served)


async def test_a_connection_that_breaks_in_the_middle(served: Served) -> None:
    """Both sides notice: the client has an error, the server nothing left."""
    services = served.remote.bind("default")
    sent = asyncio.Event()

    async def archive() -> AsyncIterator[bytes]:
        yield images.tar_layer({"blobs/sha256/" + "0" * 64: bytes(1 << 20)})[: 1 << 19]
        sent.set()
        await asyncio.Event().wait()

    destination = ImageStore(extra_references=(ImageReference("x", is_prefix=True),))
    work = asyncio.create_task(services.transfer.transfer(ImageImportStream(archive()), destination))
    await sent.wait()
    for connection in list(served.server._connections):
        connection.close()
    with pytest.raises(PortsideError):
        await work
    await until(lambda: len(served.streams) == 0)
    local = served.engine.bind("default")
    await until_async(lambda: _none(local.content.list_statuses()))


async def until_async(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def _none(found: Awaitable[Sequence[object]]) -> bool:
    return not await found


async def test_a_log_that_nobody_reads(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_streams, "FLUSH_SECONDS", 0.01)
    made = await served.engine.bind("default").streaming.create("log")
    taken = await served.engine.bind("default").streaming.take("log")
    queue = transfer_streams.LogQueue(taken)
    for _ in range(100_000):
        queue.put("x" * 100)
    assert queue._size <= transfer_streams.MAX_LOG + 100
    await queue.close()
    await taken.close()
    assert await made.recv() is None


async def test_a_question_that_nobody_answers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_streams, "AUTH_SECONDS", 0.01)
    await served.engine.bind("default").streaming.create("auth")
    ask = transfer_streams.asker(await served.engine.bind("default").streaming.take("auth"))
    with pytest.raises(Unavailable, match=r"credentials for host\.example: no answer"):
        await ask("host.example", "host.example/x:1")


async def test_objects_of_any_bytes(served: Served) -> None:
    """Whatever comes, the answer says whose fault it is, and nothing is left."""
    chance = random.Random(20)
    names = ImageStore("a/b:1", {"k": "v"}, (Platform("linux", "amd64"),), True, 3, (ImageReference("p", True, True),))
    whole = {
        "containerd.types.transfer.ImageStore": image_store_to_pb(names).SerializeToString(),
        "containerd.types.transfer.ImageImportStream": b"\x0a\x03abc\x12\x01x\x18\x01",
        "containerd.types.transfer.ImageExportStream": b"\x0a\x03abc\x1a\x07\x0a\x05linux\x20\x01",
        "containerd.types.transfer.ReadStream": b"\x0a\x03abc",
        "containerd.types.transfer.WriteStream": b"\x0a\x03abc",
        "portside.types.transfer.v1.Snapshot": snapshot_to_pb(
            Snapshot("k", "p", "native", {"a": "b"})
        ).SerializeToString(),
    }
    caller = Caller(served.remote.channel, TRANSFER, "default")
    fine = 0
    for _ in range(400):
        ends = []
        for _ in range(2):
            url, value = chance.choice(list(whole.items()))
            data = bytearray(value)
            for _ in range(chance.choice((0, 1, 3))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            ends.append(any_pb2.Any(type_url=url, value=bytes(data[: chance.randrange(1, len(data) + 1)])))
        request = transfer_pb2.TransferRequest(source=ends[0], destination=ends[1])
        try:
            await caller.call("Transfer", request, empty_pb2.Empty)
            fine += 1
        except (InvalidArgument, NotFound, Unimplemented):
            continue
    assert fine == 0
    assert len(served.streams) == 0 and await served.engine.bind("default").leases.list() == []
