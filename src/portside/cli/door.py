"""Our side of the daemon's door: one connection, messages by table (``portside.services.engine.v1``)."""

from __future__ import annotations

from portside.wire import codec
from portside.wire.grpc.blocking import BlockingChannel
from portside.wire.tables import portside_services_engine_v1 as tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from portside.cli.main import Context
    from portside.wire.grpc.blocking import BlockingStream

SERVICE = "/portside.services.engine.v1.Engine/"
TIMEOUT = 120.0
"""Seconds for a call that does not wait for a container to end."""


class Door:
    """Asks for whole verbs. Closes its connection with ``close``, or at the end of a ``with``."""

    def __init__(self, context: Context) -> None:
        self._channel = BlockingChannel(context.address)
        self._metadata = (("containerd-namespace", context.namespace),)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def call(self, method: str, request: Mapping[str, Any], timeout: float | None = TIMEOUT) -> Mapping[str, Any]:
        """One answer; ``timeout`` None waits as long as it takes."""
        asked, answered = METHODS[method]
        data = self._channel.unary(
            SERVICE + method, codec.encode(asked, request), metadata=self._metadata, timeout=timeout
        )
        return codec.decode(answered, data)

    def stream(self, method: str, request: Mapping[str, Any]) -> Stream:
        """Answers as they come."""
        asked, answered = METHODS[method]
        stream = self._channel.server_stream(SERVICE + method, codec.encode(asked, request), metadata=self._metadata)
        return Stream(stream, answered)


class Stream:
    """Streamed answers, decoded: iterate to wait for them, or poll ``fileno`` and ``receive``."""

    def __init__(self, stream: BlockingStream, table: codec.Table) -> None:
        self._stream, self._table = stream, table

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for data in self._stream:
            yield codec.decode(self._table, data)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._stream.fileno()

    def receive(self) -> list[Mapping[str, Any]] | None:
        """What has come, without waiting; None at the end; the error of the call if it failed."""
        messages = self._stream.receive()
        return None if messages is None else [codec.decode(self._table, data) for data in messages]


METHODS = {
    "Run": (tables.RunRequest, tables.RunEvent),
    "Exec": (tables.ExecRequest, tables.RunEvent),
    "Pull": (tables.PullRequest, tables.RunEvent),
    "Push": (tables.PullRequest, tables.RunEvent),
    "Images": (tables.ImagesRequest, tables.ImagesResponse),
    "RemoveImage": (tables.RemoveImageRequest, tables.RemoveImageResponse),
    "List": (tables.ListRequest, tables.ListResponse),
    "Inspect": (tables.InspectRequest, tables.InspectResponse),
    "Logs": (tables.LogsRequest, tables.LogEntry),
    "Resize": (tables.ResizeRequest, tables.ContainerResponse),
    "Stats": (tables.StatsRequest, tables.StatsRound),
    "Info": (tables.InfoRequest, tables.InfoResponse),
} | dict.fromkeys(
    ("Start", "Stop", "Kill", "Pause", "Resume", "Remove", "Wait", "CloseStdin"),
    (tables.ContainerRequest, tables.ContainerResponse),
)
