"""Options of a verb: a declared table, a small parser, and the help text made from the table.

Not argparse: importing it costs a command as much time as asking the daemon does. The grammar is that of ``docker``
and ``ctr``: ``-it``, ``-e A=B``, ``-eA=B``, ``--env A=B``, ``--env=A=B``, ``--`` ends the options, and verbs that
start a program (``run``, ``exec``) take everything after their own arguments as it is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class UsageError(Exception):
    """The command line does not fit the verb; the text says what and the caller shows how to get help."""


class Option:
    """One option: its names, and either a flag or what its value is called."""

    __slots__ = ("default", "help", "key", "many", "names", "value")

    def __init__(self, *names: str, help: str, value: str = "", many: bool = False, default: str = "") -> None:
        self.names, self.help, self.value, self.many, self.default = names, help, value, many, default
        longest = max(names, key=len)
        self.key = longest.lstrip("-").replace("-", "_")


HELP = ("-h", "--help")


class Verb:
    """What a verb is called like: options, and positional arguments as in ``IMAGE [COMMAND...]``."""

    __slots__ = ("arguments", "name", "options", "summary")

    def __init__(self, name: str, arguments: str, summary: str, options: Sequence[Option] = ()) -> None:
        taken = {word for option in options for word in option.names}
        help = Option(*[word for word in HELP if word not in taken], help="show this help")
        self.name, self.arguments, self.summary, self.options = name, arguments, summary, (*options, help)

    @property
    def verbatim(self) -> bool:
        """Whether everything from the first positional argument on is taken as it is."""
        return self.arguments.endswith("[ARG...]")

    def parse(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Values by key (flags: bool, many: list, else text) and the positional arguments; UsageError."""
        table = {name: option for option in self.options for name in option.names}
        values: dict[str, Any] = {
            option.key: [] if option.many else option.default if option.value else False for option in self.options
        }
        rest: list[str] = []
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                rest += words
                break
            if len(word) < 2 or word[0] != "-":
                rest.append(word)
                if self.verbatim:
                    rest += words
                    break
                continue
            if word.startswith("--"):
                self._long(word, words, table, values)
            else:
                self._short(word, words, table, values)
        if not values["help"]:
            self._check_count(rest)
        return values, rest

    def _long(self, word: str, words: list[str], table: dict[str, Option], values: dict[str, Any]) -> None:
        name, equals, value = word.partition("=")
        option = self._find(name, table)
        if not option.value:
            if equals and value not in ("true", "false"):
                raise UsageError(f"{name} takes no value")
            values[option.key] = value != "false"
            return
        if not equals:
            if not words:
                raise UsageError(f"{name} wants a value ({option.value})")
            value = words.pop(0)
        _set(values, option, value)

    def _short(self, word: str, words: list[str], table: dict[str, Option], values: dict[str, Any]) -> None:
        letters = word[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            option = self._find(name, table)
            if not option.value:
                values[option.key] = True
                continue
            if not letters and not words:
                raise UsageError(f"{name} wants a value ({option.value})")
            _set(values, option, letters.removeprefix("=") or words.pop(0))
            return

    def _find(self, name: str, table: dict[str, Option]) -> Option:
        option = table.get(name)
        if option is None:
            raise UsageError(f"unknown option {name}")
        return option

    def _check_count(self, rest: list[str]) -> None:
        words = self.arguments.split()
        least = sum(1 for word in words if not word.startswith("["))
        most = None if self.arguments.endswith(("...", "...]")) else len(words)
        if len(rest) < least or (most is not None and len(rest) > most):
            raise UsageError(f"want {self.arguments or 'no arguments'}, got {len(rest)} arguments")

    def usage(self, command: str) -> str:
        """The help text."""
        lines = [
            f"Usage: {command} {self.name} [OPTION...] {self.arguments}".rstrip(),
            "",
            self.summary,
            "",
            "Options:",
        ]
        for option in self.options:
            left = ", ".join(option.names) + (f" {option.value}" if option.value else "")
            lines.append(f"  {left:<28} {option.help}")
        return "\n".join(lines)


def _set(values: dict[str, Any], option: Option, value: str) -> None:
    if option.many:
        values[option.key].append(value)
    else:
        values[option.key] = value
