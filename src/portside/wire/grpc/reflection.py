"""Server reflection (``grpc.reflection.v1`` and ``v1alpha``, which differ in name only): a server tells its schema."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool

from portside.wire.grpc.service import Call, Method, methods_of
from portside.wire.pb.grpc.reflection.v1 import reflection_pb2 as v1
from portside.wire.pb.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from portside.wire.pool import POOL

_NOT_FOUND = 5
_UNIMPLEMENTED = 12


def reflection_methods(methods: Iterable[Method], pool: DescriptorPool = POOL) -> list[Method]:
    """Rows that describe the services of ``methods``, and themselves, with the messages of ``pool``."""
    names = {method.path.split("/")[1] for method in methods}
    services = [module.DESCRIPTOR.services_by_name["ServerReflection"] for module in (v1, v1alpha)]
    names |= {service.full_name for service in services}
    return [
        row
        for service, module in zip(services, (v1, v1alpha), strict=True)
        for row in methods_of(service, Reflection(module, sorted(names), pool))
    ]


class Reflection:
    """One version of the service; ``module`` has its messages, ``names`` are the full names of the services served."""

    def __init__(self, module: Any, names: list[str], pool: DescriptorPool) -> None:
        self._module = module
        self._names = names
        self._pool = pool

    async def server_reflection_info(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        """Answer each question in turn; one that has no answer gets an error response, and the stream goes on."""
        async for request in requests:
            response = self._module.ServerReflectionResponse(valid_host=request.host, original_request=request)
            self._answer(request, response)
            yield response

    def _answer(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._names:
                    response.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                self._add_file(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                self._add_file(response, self._file_of(request.file_containing_symbol))
            elif kind == "all_extension_numbers_of_type":
                self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            elif kind == "file_containing_extension":  # proto3 has none
                raise KeyError(f"extension of {request.file_containing_extension.containing_type}")
            else:
                response.error_response.error_code = _UNIMPLEMENTED
                response.error_response.error_message = "an unknown question"
        except KeyError as error:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = f"not found: {error.args[0]}"

    def _file_of(self, symbol: str) -> Any:
        """The file that defines ``symbol``; the pool does not find methods, so they are looked for in their service."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file

    def _add_file(self, response: Any, file: Any) -> None:
        """The file and all that it imports, each once, the file itself first."""
        seen = {file.name: file}
        waiting = [file]
        while waiting:
            for imported in waiting.pop().dependencies:
                if imported.name not in seen:
                    seen[imported.name] = imported
                    waiting.append(imported)
        response.file_descriptor_response.file_descriptor_proto.extend(each.serialized_pb for each in seen.values())
