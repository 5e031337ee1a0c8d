"""Our ttrpc client against the Go implementation: the ttrpc socket of Debian's containerd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from portside.errors import ResourceExhausted, Unavailable, Unimplemented
from portside.remote.backend import RemoteBackend
from portside.wire import codec
from portside.wire.tables import containerd_services_events_ttrpc_v1 as tables
from portside.wire.ttrpc.client import TtrpcClient
from portside.wire.ttrpc.connection import MAX_BODY
from tests.support.containerd import containerd

EVENTS = "containerd.services.events.ttrpc.v1.Events"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with containerd(tmp_path_factory.mktemp("c")) as socket:
        yield socket


@pytest.fixture
async def client(upstream: Path) -> AsyncIterator[TtrpcClient]:
    client = await TtrpcClient.connect(f"{upstream}.ttrpc")
    yield client
    await client.close()


def forward(topic: str, value: bytes = b"v") -> bytes:
    event = {"type_url": "test/type", "value": value}
    envelope = {"timestamp": {"seconds": 1_700_000_000}, "namespace": "peers", "topic": topic, "event": event}
    return codec.encode(tables.ForwardRequest, {"envelope": envelope})


async def test_an_event_travels(upstream: Path, client: TtrpcClient) -> None:
    async with await RemoteBackend.connect(str(upstream)) as backend:
        events = backend.bind("peers").events.subscribe(["namespace==peers"]).__aiter__()
        first = asyncio.ensure_future(anext(events))
        while not first.done():
            metadata = {"containerd-namespace-ttrpc": "peers"}
            assert await client.call(EVENTS, "Forward", forward("/test/a"), timeout=20, metadata=metadata) == b""
            await asyncio.wait([first], timeout=0.05)
        envelope = await first
        assert (envelope.namespace, envelope.topic, envelope.timestamp_ns) == (
            "peers",
            "/test/a",
            1_700_000_000 * 10**9,
        )
        assert envelope.event is not None and envelope.event.value == b"v"
        await events.aclose()  # type: ignore[attr-defined]


async def test_many_calls_in_flight(client: TtrpcClient) -> None:
    calls = [client.call(EVENTS, "Forward", forward(f"/test/n{number}"), timeout=30) for number in range(200)]
    assert await asyncio.gather(*calls) == [b""] * 200


async def test_errors(client: TtrpcClient) -> None:
    for service, method in ((EVENTS, "Nope"), ("no.Service", "Forward")):
        with pytest.raises(Unimplemented):
            await client.call(service, method, b"", timeout=20)


async def test_large_requests(client: TtrpcClient) -> None:
    await client.call(EVENTS, "Forward", forward("/test/large", bytes(MAX_BODY - 1000)), timeout=30)
    with pytest.raises(ResourceExhausted):
        await client.call(EVENTS, "Forward", forward("/test/large", bytes(MAX_BODY)), timeout=30)


async def test_a_server_that_ends(tmp_path: Path) -> None:
    with containerd(tmp_path) as socket:
        client = await TtrpcClient.connect(f"{socket}.ttrpc")
        await client.call(EVENTS, "Forward", forward("/test/x"), timeout=20)
    async with asyncio.timeout(20):
        await client.wait_closed()
    with pytest.raises(Unavailable):
        await client.call(EVENTS, "Forward", forward("/test/x"), timeout=20)
