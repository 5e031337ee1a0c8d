"""Counting calls, on our server with a client of grpcio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from portside.daemon.exposition import Exposition
from portside.daemon.grpc_metrics import CODES, GrpcMetrics
from portside.errors import NotFound
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Call, Method
from portside.wire.status import error_of
from tests.wire.grpc.servers import Raw

P = "/metrics.Test/"


class Service:
    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.closed = asyncio.Event()

    async def echo(self, request: Raw, call: Call) -> Raw:
        if request == b"missing":
            raise NotFound("missing")
        if request == b"defect":
            raise ValueError("defect")
        return request

    async def slow(self, request: Raw, call: Call) -> Raw:
        self.entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def collect(self, requests: AsyncIterator[Raw], call: Call) -> Raw:
        return Raw(b"".join([request async for request in requests]))

    async def count(self, request: Raw, call: Call) -> AsyncIterator[Raw]:
        try:
            for number in range(int(request)):
                yield Raw(b"%d" % number)
            if request == b"3":
                raise NotFound("no more")
        finally:
            self.closed.set()

    async def mirror(self, requests: AsyncIterator[Raw], call: Call) -> AsyncIterator[Raw]:
        async for request in requests:
            yield request

    def methods(self) -> list[Method]:
        return [
            Method(P + "Echo", Raw, Raw, self.echo, inline=True),
            Method(P + "Slow", Raw, Raw, self.slow, inline=True),
            Method(P + "Collect", Raw, Raw, self.collect, client_streaming=True),
            Method(P + "Count", Raw, Raw, self.count, server_streaming=True),
            Method(P + "Mirror", Raw, Raw, self.mirror, client_streaming=True, server_streaming=True),
        ]


class World:
    def __init__(self, socket: Path) -> None:
        self.service, self.metrics = Service(), GrpcMetrics(histogram=True)
        self.server = GrpcServer(self.metrics.wrap(self.service.methods()))
        self.channel = grpc.aio.insecure_channel(f"unix:{socket}")

    def figures(self, method: str) -> dict[str, float]:
        """What is not nought, by the rest of the metric's name or the code."""
        out = Exposition()
        self.metrics.collect(out)
        found: dict[str, float] = {}
        for family in parse(b"".join(out.pieces()).decode()):
            for sample in family.samples:
                if sample.labels["grpc_method"] == method and "le" not in sample.labels and sample.value:
                    name = sample.name.removeprefix("grpc_server_").removesuffix("_total")
                    if name == "handling_seconds_sum":
                        continue
                    found[sample.labels.get("grpc_code", name)] = sample.value
        return found

    async def figure(self, method: str, name: str, wanted: float) -> None:
        """Return when a figure is what it is to be."""
        async with asyncio.timeout(20):
            while self.figures(method).get(name) != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "socket")
    await world.server.listen_unix(tmp_path / "socket")
    yield world
    await world.channel.close()
    await world.server.drain(0)


def test_codes_are_numbered_as_ours() -> None:
    for number, name in enumerate(CODES[1:], 1):
        ours = type(error_of(number, "")).__name__
        assert ours == {"Canceled": "Cancelled"}.get(name, name)


async def test_unary(world: World) -> None:
    echo = world.channel.unary_unary(P + "Echo")
    await echo(b"x")
    for request in (b"missing", b"missing", b"defect"):
        with pytest.raises(grpc.aio.AioRpcError):
            await echo(request)
    assert world.figures("Echo") == {
        "started": 4, "msg_received": 4, "msg_sent": 1, "OK": 1, "NotFound": 2, "Unknown": 1,
        "handling_seconds_count": 4,
    }  # fmt: skip


async def test_why_a_call_was_cancelled(world: World) -> None:
    slow = world.channel.unary_unary(P + "Slow")
    with pytest.raises(grpc.aio.AioRpcError):
        await slow(b"", timeout=0.1)
    world.service.entered.clear()
    call = slow(b"")
    await world.service.entered.wait()
    call.cancel()
    await world.figure("Slow", "Canceled", 1)
    assert world.figures("Slow") == {
        "started": 2, "msg_received": 2, "DeadlineExceeded": 1, "Canceled": 1, "handling_seconds_count": 2,
    }  # fmt: skip


async def test_streams(world: World) -> None:
    assert await world.channel.stream_unary(P + "Collect")(iter([b"a", b"b", b"c"])) == b"abc"
    assert world.figures("Collect") == {
        "started": 1, "msg_received": 3, "msg_sent": 1, "OK": 1, "handling_seconds_count": 1,
    }  # fmt: skip
    count = world.channel.unary_stream(P + "Count")
    assert [item async for item in count(b"2")] == [b"0", b"1"]
    with pytest.raises(grpc.aio.AioRpcError):
        _ = [item async for item in count(b"3")]
    assert world.figures("Count") == {
        "started": 2, "msg_received": 2, "msg_sent": 5, "OK": 1, "NotFound": 1, "handling_seconds_count": 2,
    }  # fmt: skip
    assert [item async for item in world.channel.stream_stream(P + "Mirror")(iter([b"a", b"b"]))] == [b"a", b"b"]
    assert world.figures("Mirror") == {
        "started": 1, "msg_received": 2, "msg_sent": 2, "OK": 1, "handling_seconds_count": 1,
    }  # fmt: skip


async def test_a_stream_that_nobody_reads_to_its_end_is_closed(world: World) -> None:
    call = world.channel.unary_stream(P + "Count")(b"1000000")
    await call.read()
    call.cancel()
    async with asyncio.timeout(20):
        await world.service.closed.wait()
    await world.figure("Count", "Canceled", 1)


async def test_what_has_no_method_is_not_counted(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await world.channel.unary_unary(P + "Other")(b"")
    assert world.figures("Other") == {}
