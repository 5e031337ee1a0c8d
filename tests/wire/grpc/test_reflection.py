"""Reflection, both versions, asked by grpcio: from nothing but the answers a client can build messages and call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from portside.wire.grpc.health import Health
from portside.wire.grpc.reflection import reflection_methods
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Method, inline, methods_of
from portside.wire.pb.containerd.services.version.v1 import version_pb2
from portside.wire.pb.grpc.reflection.v1 import reflection_pb2 as v1
from portside.wire.pb.grpc.reflection.v1alpha import reflection_pb2 as v1alpha

VERSION = "containerd.services.version.v1.Version"


class Version:
    @inline
    async def version(self, request: Any, call: Any) -> Any:
        return version_pb2.VersionResponse(version="1.2.3")


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    methods: list[Method] = Health().methods()
    methods += methods_of(version_pb2.DESCRIPTOR.services_by_name["Version"], Version())
    server = GrpcServer([*methods, *reflection_methods(methods)])
    await server.listen_unix(tmp_path / "s")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield channel
    await server.drain(5)


@pytest.fixture(params=[v1, v1alpha], ids=["v1", "v1alpha"])
async def ask(request: pytest.FixtureRequest, channel: grpc.aio.Channel) -> AsyncIterator[Any]:
    module = request.param
    call = channel.stream_stream(
        f"/{module.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo",
        request_serializer=module.ServerReflectionRequest.SerializeToString,
        response_deserializer=module.ServerReflectionResponse.FromString,
    )()

    async def ask(**question: Any) -> Any:
        await call.write(module.ServerReflectionRequest(host="here", **question))
        answer = await call.read()
        assert answer.valid_host == "here"
        assert answer.original_request == module.ServerReflectionRequest(host="here", **question)
        return answer

    yield ask
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_services(ask: Any) -> None:
    answer = await ask(list_services="")
    assert [service.name for service in answer.list_services_response.service] == [
        VERSION,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


async def test_a_client_can_call_what_it_has_only_read_of(ask: Any, channel: grpc.aio.Channel) -> None:
    answer = await ask(file_containing_symbol=VERSION)
    pool = descriptor_pool.DescriptorPool()
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert files[0].name == "containerd/services/version/v1/version.proto"
    for file in reversed(files):
        pool.Add(file)
    method = pool.FindServiceByName(VERSION).methods_by_name["Version"]
    call = channel.unary_unary(
        f"/{VERSION}/Version",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    assert (await call(message_factory.GetMessageClass(method.input_type)())).version == "1.2.3"


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "google/protobuf/empty.proto"},
        {"file_containing_symbol": f"{VERSION}.Version"},
        {"file_containing_symbol": "containerd.services.version.v1.VersionResponse"},
        {"file_containing_symbol": "grpc.health.v1.HealthCheckResponse.ServingStatus"},
    ],
    ids=lambda question: next(iter(question.values())),
)
async def test_files(ask: Any, question: dict[str, Any]) -> None:
    answer = await ask(**question)
    assert answer.WhichOneof("message_response") == "file_descriptor_response"
    raw = answer.file_descriptor_response.file_descriptor_proto
    names = [descriptor_pb2.FileDescriptorProto.FromString(each).name for each in raw]
    assert len(names) == len(set(names))


async def test_no_extensions(ask: Any) -> None:
    answer = await ask(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest")
    assert answer.all_extension_numbers_response.base_type_name == "grpc.health.v1.HealthCheckRequest"
    assert not answer.all_extension_numbers_response.extension_number


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "none.proto"},
        {"file_containing_symbol": "no.Such"},
        {"all_extension_numbers_of_type": "no.Such"},
        {"file_containing_extension": {"containing_type": "no.Such", "extension_number": 1}},
    ],
    ids=lambda question: next(iter(question)),
)
async def test_what_is_not_there(ask: Any, question: dict[str, Any]) -> None:
    assert (await ask(**question)).error_response.error_code == 5
    assert (await ask(list_services="")).list_services_response.service


async def test_a_question_without_question(ask: Any) -> None:
    assert (await ask()).error_response.error_code == 12
