"""The service that gRPC's interoperability tests call (``grpc.testing.TestService``), and its messages.

Names and numbers are those of the published test descriptions (grpc/doc/interop-test-descriptions.md), so that the test
programs of other implementations can be pointed at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from portside import errors
from portside.wire import status
from portside.wire.grpc.service import Method, inline, methods_of

PACKAGE = "grpc.testing"
_FIELD = descriptor_pb2.FieldDescriptorProto

# Message → fields: name, number, type (another message by its name), repeated.
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "Empty": [],
    "BoolValue": [("value", 1, "bool", False)],
    "Payload": [("type", 1, "int32", False), ("body", 2, "bytes", False)],
    "EchoStatus": [("code", 1, "int32", False), ("message", 2, "string", False)],
    "SimpleRequest": [
        ("response_type", 1, "int32", False),
        ("response_size", 2, "int32", False),
        ("payload", 3, "Payload", False),
        ("fill_username", 4, "bool", False),
        ("fill_oauth_scope", 5, "bool", False),
        ("response_compressed", 6, "BoolValue", False),
        ("response_status", 7, "EchoStatus", False),
        ("expect_compressed", 8, "BoolValue", False),
    ],
    "SimpleResponse": [("payload", 1, "Payload", False)],
    "StreamingInputCallRequest": [("payload", 1, "Payload", False), ("expect_compressed", 2, "BoolValue", False)],
    "StreamingInputCallResponse": [("aggregated_payload_size", 1, "int32", False)],
    "ResponseParameters": [
        ("size", 1, "int32", False),
        ("interval_us", 2, "int32", False),
        ("compressed", 3, "BoolValue", False),
    ],
    "StreamingOutputCallRequest": [
        ("response_type", 1, "int32", False),
        ("response_parameters", 2, "ResponseParameters", True),
        ("payload", 3, "Payload", False),
        ("response_status", 7, "EchoStatus", False),
    ],
    "StreamingOutputCallResponse": [("payload", 1, "Payload", False)],
}
# Method → request, client streams, response, server streams.
_METHODS = {
    "EmptyCall": ("Empty", False, "Empty", False),
    "UnaryCall": ("SimpleRequest", False, "SimpleResponse", False),
    "StreamingOutputCall": ("StreamingOutputCallRequest", False, "StreamingOutputCallResponse", True),
    "StreamingInputCall": ("StreamingInputCallRequest", True, "StreamingInputCallResponse", False),
    "FullDuplexCall": ("StreamingOutputCallRequest", True, "StreamingOutputCallResponse", True),
    "HalfDuplexCall": ("StreamingOutputCallRequest", True, "StreamingOutputCallResponse", True),
    "UnimplementedCall": ("Empty", False, "Empty", False),
}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="portside/tests/interop.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                added.type = getattr(_FIELD, f"TYPE_{kind.upper()}")
    service = file.service.add(name="TestService")
    for name, (request, client_streams, response, server_streams) in _METHODS.items():
        service.method.add(
            name=name,
            input_type=f".{PACKAGE}.{request}",
            output_type=f".{PACKAGE}.{response}",
            client_streaming=client_streams,
            server_streaming=server_streams,
        )
    return file


POOL = descriptor_pool.DescriptorPool()
POOL.Add(_describe())
SERVICE = POOL.FindServiceByName(f"{PACKAGE}.TestService")


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


Empty = message("Empty")
BoolValue = message("BoolValue")
Payload = message("Payload")
EchoStatus = message("EchoStatus")
SimpleRequest = message("SimpleRequest")
SimpleResponse = message("SimpleResponse")
StreamingInputCallRequest = message("StreamingInputCallRequest")
StreamingInputCallResponse = message("StreamingInputCallResponse")
ResponseParameters = message("ResponseParameters")
StreamingOutputCallRequest = message("StreamingOutputCallRequest")
StreamingOutputCallResponse = message("StreamingOutputCallResponse")

ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"


def _echo(call: Any) -> None:
    if ECHO_INITIAL in call.metadata:
        call.set_header(ECHO_INITIAL, call.metadata[ECHO_INITIAL])
    if ECHO_TRAILING in call.metadata:
        call.set_trailer(ECHO_TRAILING, call.metadata[ECHO_TRAILING])


def _fail_if_asked(request: Any) -> None:
    if request.response_status.code:
        raise status.error_of(request.response_status.code, request.response_status.message)


def _check_compressed(request: Any, call: Any) -> None:
    if request.HasField("expect_compressed") and request.expect_compressed.value != call.request_compressed:
        raise errors.InvalidArgument("the compressed flag is not what the request expects")


class TestService:
    """What the descriptions ask of a server. ``started`` and ``ended`` are set by calls that stream in."""

    __test__ = False

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    def methods(self) -> list[Method]:
        return methods_of(SERVICE, self)

    @inline
    async def empty_call(self, request: Any, call: Any) -> Any:
        return Empty()

    @inline
    async def unary_call(self, request: Any, call: Any) -> Any:
        _echo(call)
        _check_compressed(request, call)
        _fail_if_asked(request)
        if request.response_compressed.value:
            call.compress()
        return SimpleResponse(payload=Payload(body=bytes(request.response_size)))

    async def streaming_output_call(self, request: Any, call: Any) -> AsyncIterator[Any]:
        if any(each.compressed.value for each in request.response_parameters):
            call.compress()
        async for response in self._outputs(request):
            yield response

    async def streaming_input_call(self, requests: AsyncIterator[Any], call: Any) -> Any:
        size = 0
        self.started.set()
        try:
            async for request in requests:
                _check_compressed(request, call)
                size += len(request.payload.body)
        finally:
            self.ended.set()
        return StreamingInputCallResponse(aggregated_payload_size=size)

    async def full_duplex_call(self, requests: AsyncIterator[Any], call: Any) -> AsyncIterator[Any]:
        _echo(call)
        self.started.set()
        try:
            async for request in requests:
                _fail_if_asked(request)
                async for response in self._outputs(request):
                    yield response
        finally:
            self.ended.set()

    async def _outputs(self, request: Any) -> AsyncIterator[Any]:
        for each in request.response_parameters:
            if each.interval_us:
                await asyncio.sleep(each.interval_us / 1e6)
            yield StreamingOutputCallResponse(payload=Payload(body=bytes(each.size)))
