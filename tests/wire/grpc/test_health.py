"""The health service, asked by grpcio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from portside.wire.grpc.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health
from portside.wire.grpc.server import GrpcServer
from portside.wire.pb.grpc.health.v1 import health_pb2 as pb


@pytest.fixture
async def health() -> Health:
    return Health()


@pytest.fixture
async def channel(tmp_path: Path, health: Health) -> AsyncIterator[grpc.aio.Channel]:
    server = GrpcServer(health.methods())
    await server.listen_unix(tmp_path / "s")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield channel
    await server.drain(5)


def check(channel: grpc.aio.Channel, service: str = "") -> Any:
    call = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=pb.HealthCheckRequest.SerializeToString,
        response_deserializer=pb.HealthCheckResponse.FromString,
    )
    return call(pb.HealthCheckRequest(service=service))


def watch(channel: grpc.aio.Channel, service: str = "") -> Any:
    call = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=pb.HealthCheckRequest.SerializeToString,
        response_deserializer=pb.HealthCheckResponse.FromString,
    )
    return call(pb.HealthCheckRequest(service=service))


async def test_check(channel: grpc.aio.Channel, health: Health) -> None:
    assert (await check(channel)).status == SERVING
    health.set("a.B", False)
    assert (await check(channel, "a.B")).status == NOT_SERVING
    health.set("a.B", True)
    assert (await check(channel, "a.B")).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(channel, "a.C")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_list(channel: grpc.aio.Channel, health: Health) -> None:
    health.set("a.B", False)
    call = channel.unary_unary(
        "/grpc.health.v1.Health/List",
        request_serializer=pb.HealthListRequest.SerializeToString,
        response_deserializer=pb.HealthListResponse.FromString,
    )
    statuses = (await call(pb.HealthListRequest())).statuses
    assert {name: each.status for name, each in statuses.items()} == {"": SERVING, "a.B": NOT_SERVING}


async def test_watch_tells_every_change(channel: grpc.aio.Channel, health: Health) -> None:
    call = watch(channel, "a.B")
    assert (await call.read()).status == SERVICE_UNKNOWN
    health.set("a.B", True)
    assert (await call.read()).status == SERVING
    health.set("other", True)
    health.set("a.B", True)
    health.shut_down()
    assert (await call.read()).status == NOT_SERVING
    call.cancel()


async def test_shut_down_reaches_all(channel: grpc.aio.Channel, health: Health) -> None:
    health.set("a.B", True)
    calls = [watch(channel), watch(channel, "a.B")]
    assert [(await call.read()).status for call in calls] == [SERVING, SERVING]
    health.shut_down()
    assert [(await call.read()).status for call in calls] == [NOT_SERVING, NOT_SERVING]
    for call in calls:
        call.cancel()
