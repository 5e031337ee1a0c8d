"""The published interoperability cases of gRPC, grpcio as the client, our server on a unix socket.

The same handlers are served by grpcio too: a case that it does not pass would be a case that we have misread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from portside.wire.grpc.server import GrpcServer
from tests.wire.grpc.interop import (
    ECHO_INITIAL,
    ECHO_TRAILING,
    SERVICE,
    BoolValue,
    EchoStatus,
    Empty,
    Payload,
    ResponseParameters,
    SimpleRequest,
    StreamingInputCallRequest,
    StreamingOutputCallRequest,
    TestService,
    message,
)
from tests.wire.grpc.reference import ReferenceServer

UNARY = 271828, 314159
REQUEST_SIZES = 27182, 8, 1828, 45904
RESPONSE_SIZES = 31415, 9, 2653, 58979


class Stub:
    """Calls by method name, with the right kind and messages."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        for method in SERVICE.methods:
            kind = (
                f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
            )
            call = getattr(channel, kind)(
                f"/{SERVICE.full_name}/{method.name}",
                request_serializer=message(method.input_type.name).SerializeToString,
                response_deserializer=message(method.output_type.name).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.fixture(params=[GrpcServer, ReferenceServer], ids=["ours", "reference"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TestService]:
    service = TestService()
    server = request.param(service.methods())
    await server.listen_unix(tmp_path / "s")
    yield service
    await server.drain(5)
    assert server.statistics() == {"connections": 0, "tasks": 0, "listeners": 0}


@pytest.fixture
async def channel(tmp_path: Path, service: TestService) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Stub:
    return Stub(channel)


def payload(size: int) -> Any:
    return Payload(body=bytes(size))


def outputs(*sizes: int, **more: Any) -> Any:
    return StreamingOutputCallRequest(response_parameters=[ResponseParameters(size=size, **more) for size in sizes])


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_empty_unary(stub: Stub) -> None:
    assert await stub.EmptyCall(Empty()) == Empty()


async def test_large_unary(stub: Stub) -> None:
    request = SimpleRequest(response_size=UNARY[1], payload=payload(UNARY[0]))
    assert len((await stub.UnaryCall(request)).payload.body) == UNARY[1]


async def test_client_streaming(stub: Stub) -> None:
    requests = (StreamingInputCallRequest(payload=payload(size)) for size in REQUEST_SIZES)
    assert (await stub.StreamingInputCall(requests)).aggregated_payload_size == 74922


async def test_server_streaming(stub: Stub) -> None:
    sizes = [len(response.payload.body) async for response in stub.StreamingOutputCall(outputs(*RESPONSE_SIZES))]
    assert sizes == list(RESPONSE_SIZES)


async def test_ping_pong(stub: Stub) -> None:
    call = stub.FullDuplexCall()
    for asked, given in zip(RESPONSE_SIZES, REQUEST_SIZES, strict=True):
        request = outputs(asked)
        request.payload.body = bytes(given)
        await call.write(request)
        assert len((await call.read()).payload.body) == asked
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_empty_stream(stub: Stub) -> None:
    call = stub.FullDuplexCall()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_cancel_after_begin(stub: Stub, service: TestService) -> None:
    call = stub.StreamingInputCall()
    await call.write(StreamingInputCallRequest(payload=payload(1)))
    await service.started.wait()
    call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED
    await service.ended.wait()


async def test_cancel_after_first_response(stub: Stub, service: TestService) -> None:
    call = stub.FullDuplexCall()
    request = outputs(31415)
    request.payload.body = bytes(27182)
    await call.write(request)
    assert len((await call.read()).payload.body) == 31415
    call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED
    await service.ended.wait()


async def test_timeout_on_sleeping_server(stub: Stub, service: TestService) -> None:
    call = stub.FullDuplexCall(timeout=0.05)
    await call.write(StreamingOutputCallRequest(payload=payload(27182)))
    assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await service.ended.wait()


@pytest.mark.parametrize(
    "text",
    ["test status message", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"],
    ids=["status_code_and_message", "special_status_message"],
)
async def test_status_code_and_message(stub: Stub, text: str) -> None:
    echo = EchoStatus(code=2, message=text)
    assert await code_of(stub.UnaryCall(SimpleRequest(response_status=echo))) == (grpc.StatusCode.UNKNOWN, text)
    call = stub.FullDuplexCall()
    await call.write(StreamingOutputCallRequest(response_status=echo))
    assert await code_of(call.read()) == (grpc.StatusCode.UNKNOWN, text)


async def test_unimplemented_method(stub: Stub) -> None:
    code, text = await code_of(stub.UnimplementedCall(Empty()))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert text in ("unknown method UnimplementedCall for service grpc.testing.TestService", "Method not found!")


async def test_unimplemented_service(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")
    code, text = await code_of(call(b""))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert text in ("unknown service grpc.testing.UnimplementedService", "Method not found!")


async def test_custom_metadata(stub: Stub) -> None:
    metadata = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab"))
    unary = stub.UnaryCall(SimpleRequest(response_size=UNARY[1], payload=payload(UNARY[0])), metadata=metadata)
    assert len((await unary).payload.body) == UNARY[1]
    duplex = stub.FullDuplexCall(metadata=metadata)
    request = outputs(UNARY[1])
    request.payload.body = bytes(UNARY[0])
    await duplex.write(request)
    assert len((await duplex.read()).payload.body) == UNARY[1]
    await duplex.done_writing()
    for call in unary, duplex:
        assert dict(await call.initial_metadata())[ECHO_INITIAL] == "test_initial_metadata_value"
        assert dict(await call.trailing_metadata())[ECHO_TRAILING] == b"\xab\xab\xab"


only_ours = pytest.mark.parametrize("service", [GrpcServer], indirect=True, ids=["ours"])


@only_ours  # grpcio does not tell its handlers whether a request came compressed
async def test_client_compressed_unary(stub: Stub) -> None:
    probe = SimpleRequest(expect_compressed=BoolValue(value=True), response_size=UNARY[1], payload=payload(UNARY[0]))
    code, _ = await code_of(stub.UnaryCall(probe))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    for compressed in True, False:
        request = SimpleRequest(
            expect_compressed=BoolValue(value=compressed), response_size=UNARY[1], payload=payload(UNARY[0])
        )
        how = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        assert len((await stub.UnaryCall(request, compression=how)).payload.body) == UNARY[1]


@only_ours
async def test_client_compressed_streaming(stub: Stub) -> None:
    def requests(*sizes: int) -> Any:
        expect = BoolValue(value=True)
        return (StreamingInputCallRequest(expect_compressed=expect, payload=payload(size)) for size in sizes)

    code, _ = await code_of(stub.StreamingInputCall(requests(27182)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    call = stub.StreamingInputCall(requests(27182, 45904), compression=grpc.Compression.Gzip)
    assert (await call).aggregated_payload_size == 73086


@pytest.mark.parametrize("compressed", [True, False])
async def test_server_compressed_unary(stub: Stub, compressed: bool) -> None:
    request = SimpleRequest(
        response_compressed=BoolValue(value=compressed), response_size=UNARY[1], payload=payload(UNARY[0])
    )
    call = stub.UnaryCall(request)
    assert (await call).payload.body == bytes(UNARY[1])
    assert dict(await call.initial_metadata()).get("grpc-encoding") in (None, "gzip")


async def test_server_compressed_streaming(stub: Stub) -> None:
    request = outputs(31415, 92653, compressed=BoolValue(value=True))
    assert [len(response.payload.body) async for response in stub.StreamingOutputCall(request)] == [31415, 92653]
