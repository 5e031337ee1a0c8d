"""The command line of ``ctr``: the grammar of Go's flag package, over a table of typed options.

One or two dashes mean the same, ``--name=value`` and ``--name value`` too, a flag may be ``=true`` or ``=false``, and
an option may take its default from a variable of the environment. What ``ctr`` 1.6 allows and 2.x does not is allowed:
options after the arguments, for verbs that start no program.
"""

from __future__ import annotations

import os
import re

from portside.cli.options import Option, UsageError, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Flag(Option):
    """An option whose value has a kind: ``convert`` reads it or raises ValueError; ``env`` names a variable."""

    __slots__ = ("convert", "env", "initial")

    def __init__(
        self, *names: str, help: str, value: str = "", many: bool = False, default: Any = "", env: str = "",
        convert: Callable[[str], Any] = str,
    ) -> None:  # fmt: skip
        super().__init__(*names, help=help, value=value, many=many)
        self.convert, self.env, self.initial = convert, env, default


def integer(name: str, help: str, default: int = 0, *others: str) -> Flag:
    """An option with a whole number."""
    return Flag(name, *others, help=help, value="NUMBER", default=default, convert=_integer)


def seconds(text: str) -> float:
    """A duration as Go writes it (``1h30m``), in seconds; ValueError."""
    from portside.cli.times import parse_duration

    try:
        return parse_duration(text.removesuffix(".0s") + "s" if text.endswith(".0s") else text)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", text, re.ASCII):
        raise ValueError("not a whole number")
    return int(text, 0) if "x" in text.lower() else int(text)


class Values(dict[str, "Any"]):
    """Values by the option's key; ``given`` has the keys that the command line itself said."""

    def __init__(self, options: Sequence[Option]) -> None:
        super().__init__()
        self.given: set[str] = set()
        for option in options:
            self[option.key] = _initial(option)


def _initial(option: Option) -> Any:
    if option.many:
        return []
    if not isinstance(option, Flag):
        return option.default if option.value else False
    if option.env and (text := os.environ.get(option.env)):
        return _converted(option, text)
    return option.initial if option.value else False


def _converted(option: Option, text: str) -> Any:
    if not isinstance(option, Flag):
        return text
    try:
        return option.convert(text)
    except ValueError as error:
        raise UsageError(f"invalid value {text[:80]!r} for {max(option.names, key=len)}: {error}") from None


class Grammar(Verb):
    """A verb with that grammar."""

    __slots__ = ()

    def parse(self, argv: Sequence[str]) -> tuple[Values, list[str]]:
        """Values and positional arguments; UsageError."""
        values, rest = parse_options(self.options, argv, interleaved=not self.verbatim)
        if not values["help"]:
            self._check_count(rest)
        return values, rest


def parse_options(
    options: Sequence[Option], argv: Sequence[str], *, interleaved: bool = False
) -> tuple[Values, list[str]]:
    """Options of ``argv`` up to the first word that is none (or among such words), and the words that are left."""
    table = {name.lstrip("-"): option for option in options for name in option.names}
    values = Values(options)
    words = list(argv)
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return values, rest + words
        if len(word) < 2 or word[0] != "-":
            rest.append(word)
            if not interleaved:
                return values, rest + words
            continue
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        option = table.get(name)
        if option is None and not equals and word[1] != "-" and all(letter in table for letter in name):
            words[:0] = [f"-{letter}" for letter in name]  # ours: -td is -t -d
            continue
        if option is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        if not option.value:
            values[option.key] = _truth(name, text) if equals else True
        else:
            if not equals:
                if not words:
                    raise UsageError(f"flag needs an argument: -{name}")
                text = words.pop(0)
            value = _converted(option, text)
            if option.many:
                values[option.key].append(value)
            else:
                values[option.key] = value
        values.given.add(option.key)
    return values, rest


def _truth(name: str, text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise UsageError(f"invalid boolean value {text[:80]!r} for -{name}")
    return text in _TRUE
