"""What a group of ``ctr`` is made of: verbs with their options and a coroutine each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portside.cli.options import Option, Verb
from portside.core.services import Services
from portside.errors import InvalidArgument
from portside.remote.backend import RemoteBackend


@dataclass(frozen=True, slots=True)
class Session:
    """A connected server and the namespace that the command line chose."""

    backend: RemoteBackend
    namespace: str
    address: str

    @property
    def services(self) -> Services:
        """The services of that namespace."""
        return self.backend.bind(self.namespace)


Values = Mapping[str, Any]
Function = Callable[[Session, Values, Sequence[str]], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class Command:
    """One verb of a group; the function's answer is the exit status, None for 0."""

    verb: Verb
    function: Function
    aliases: Sequence[str] = ()


def command(
    name: str, arguments: str, summary: str, *options: Option, aliases: Sequence[str] = ()
) -> Callable[[Function], Command]:
    """Make a ``Command`` of a coroutine function."""
    return lambda function: Command(Verb(name, arguments, summary, options), function, aliases)


QUIET = Option("-q", "--quiet", help="names only")
SNAPSHOTTER = Option("--snapshotter", value="NAME", help="which snapshotter", default="")


def pairs(words: Sequence[str]) -> dict[str, str]:
    """``key=value`` words as labels; a word without ``=`` has the empty value, which removes a label."""
    labels = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key:
            raise InvalidArgument(f"label {word!r}: want key=value")
        labels[key] = value
    return labels


def label_text(labels: Mapping[str, str]) -> str:
    """Labels in one cell, sorted; ``-`` for none."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-"


def size_text(size: int) -> str:
    """Bytes as ctr shows them: 1.0 MiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
