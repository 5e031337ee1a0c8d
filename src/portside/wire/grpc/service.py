"""What a gRPC service is to our server: a table of methods, each with its message classes and its handler.

A handler is a coroutine function (unary answer) or an async generator function (streamed answer). It gets the
request, or an async iterator of requests where the client streams, and the ``Call``. It raises errors of
``portside.errors``; the server makes statuses of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


class Call(Protocol):
    """One call in progress, as its handler sees it."""

    @property
    def metadata(self) -> Mapping[str, str | bytes]:
        """Request metadata by lower-case key; keys ending in ``-bin`` have bytes. Of repeated keys the first."""
        ...

    @property
    def deadline(self) -> float | None:
        """The loop time after which nobody waits for the answer."""
        ...

    endless: bool
    """Set by a handler that from here on waits for what may never come: a server that ends does not wait for it."""

    def set_trailer(self, key: str, value: str | bytes) -> None:
        """Add trailing metadata."""
        ...


class Framed:
    """A streamed answer that is serialized already: buffers that together are one message, in order."""

    __slots__ = ("buffers", "size")

    def __init__(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        self.buffers = tuple(buffers)
        self.size = sum(len(buffer) for buffer in self.buffers)


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table; ``path`` is ``/package.Service/Method``.

    ``inline`` promises that the handler answers from memory and, as a rule, never suspends: the server then runs it
    without a task of its own. Such a handler must not use what needs a current task before its first suspension
    (``asyncio.timeout``, ``TaskGroup``).
    """

    path: str
    request: type[Any]
    response: type[Any]
    handler: Callable[..., Any]
    client_streaming: bool = False
    server_streaming: bool = False
    inline: bool = False


def inline(handler: _F) -> _F:
    """Mark a handler as answering from memory (see ``Method``)."""
    handler._portside_inline = True  # type: ignore[attr-defined]
    return handler


def methods_of(service: Any, implementation: object) -> list[Method]:
    """The table of a protobuf service descriptor: method ``ListStream`` is served by ``implementation.list_stream``.

    Methods that ``implementation`` lacks are left out, and so answer Unimplemented.
    """
    from google.protobuf.message_factory import GetMessageClass

    table = []
    for method in service.methods:
        handler = getattr(implementation, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower(), None)
        if handler is None:
            continue
        table.append(
            Method(
                f"/{service.full_name}/{method.name}",
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
                handler,
                method.client_streaming,
                method.server_streaming,
                getattr(handler, "_portside_inline", False),
            )
        )
    return table
