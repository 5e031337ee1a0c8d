"""What a command of ``ctr`` is made of: arguments, options, and a function, with an event loop or without."""

from __future__ import annotations

import sys

from portside.cli.ctr.grammar import Flag
from portside.cli.options import Option
from portside.errors import InvalidArgument, PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from typing import Any

    from portside.cli.ctr.grammar import Values
    from portside.remote.backend import RemoteBackend, RemoteServices
    from portside.wire.grpc.blocking import BlockingChannel

    Function = Callable[["Session", Values, Sequence[str]], Awaitable[int | None]]
    PlainFunction = Callable[["Session", Values, Sequence[str]], int | None]

TIMEOUT = 120.0
"""Seconds for a call of a command without an event loop, unless ``--timeout`` says less."""


class Session:
    """The server and the namespace that the command line chose. ``main`` opens and closes the connection."""

    __slots__ = ("_channel", "_opened", "address", "namespace", "timeout")

    def __init__(self, address: str, namespace: str, timeout: float = 0.0) -> None:
        self.address, self.namespace, self.timeout = address, namespace, timeout
        self._opened: RemoteBackend | None = None
        self._channel: BlockingChannel | None = None

    @property
    def backend(self) -> RemoteBackend:
        """All of the server, for commands with an event loop."""
        assert self._opened is not None
        return self._opened

    def use(self, backend: RemoteBackend) -> None:
        """Make ``backend`` the session's; whoever made it closes it."""
        self._opened = backend

    @property
    def services(self) -> RemoteServices:
        """The services of that namespace."""
        return self.backend.bind(self.namespace)

    def ask(self, service: str, method: str, request: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One call without an event loop; the service's module of ``wire/tables`` is named by the service."""
        from portside.wire import codec
        from portside.wire.grpc.blocking import BlockingChannel

        package = service.rpartition(".")[0]
        tables = __import__(f"portside.wire.tables.{package.replace('.', '_')}", fromlist=("SERVICES",))
        asked, answered, _, _ = tables.SERVICES[service][method]
        if self._channel is None:
            self._channel = BlockingChannel(self.address)
        data = self._channel.unary(
            f"/{service}/{method}", codec.encode(asked, request or {}),
            metadata=(("containerd-namespace", self.namespace),), timeout=self.timeout or TIMEOUT,
        )  # fmt: skip
        return codec.decode(answered, data)

    def close(self) -> None:
        """Drop what ``ask`` has connected."""
        if self._channel is not None:
            self._channel.close()


class Command:
    """One command; the function's answer is the exit status, None for 0."""

    __slots__ = ("arguments", "asks_snapshotters", "function", "offline", "options", "plain")

    def __init__(
        self, arguments: str, options: Sequence[Option], function: Any, *,
        plain: bool = False, offline: bool = False, asks_snapshotters: bool = False,
    ) -> None:  # fmt: skip
        self.arguments, self.options, self.function = arguments, options, function
        self.plain, self.offline, self.asks_snapshotters = plain, offline, asks_snapshotters


def command(arguments: str, *options: Option, asks_snapshotters: bool = False) -> Callable[[Function], Command]:
    """Make a ``Command`` of a coroutine function.

    With ``asks_snapshotters`` the server is asked first which it has, so that the default is one of them.
    """
    return lambda function: Command(arguments, options, function, asks_snapshotters=asks_snapshotters)


def offline(arguments: str, *options: Option) -> Callable[[Function], Command]:
    """Make a ``Command`` of a coroutine function that needs no connection to the server."""
    return lambda function: Command(arguments, options, function, offline=True)


def plain(arguments: str, *options: Option) -> Callable[[PlainFunction], Command]:
    """Make a ``Command`` of a function that needs no event loop."""
    return lambda function: Command(arguments, options, function, plain=True)


QUIET = Option("-q", "--quiet", help="names only")
LABELS = Flag("--label", value="KEY=VALUE", many=True, help="a label")


def pairs(words: Iterable[str]) -> dict[str, str]:
    """``key=value`` words as labels; a word without ``=`` has the empty value, which removes a label."""
    labels = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key:
            raise InvalidArgument(f"label {word!r}: want key=value")
        labels[key] = value
    return labels


def set_pairs(words: Iterable[str]) -> dict[str, str]:
    """``key=value`` words as labels that are set; a word without ``=`` has the value ``true``."""
    labels = pairs(words)
    return labels | {word: "true" for word in words if "=" not in word}


async def each(words: Sequence[str], work: Callable[[str], Awaitable[None]]) -> int:
    """Do ``work`` for each word; what fails is told, the others are done all the same. The exit status."""
    status = 0
    for word in words:
        try:
            await work(word)
        except PortsideError as error:
            complain(str(error))
            status = 1
    return status


def complain(text: str) -> None:
    """Say what is wrong without ending because of it."""
    sys.stdout.flush()
    print(f"portside ctr: {text}", file=sys.stderr, flush=True)
