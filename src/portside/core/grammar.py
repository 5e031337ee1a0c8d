"""containerd's filter grammar, read as containerd reads it; what records show is decided by adaptors (``filters``).

    filter    = selector *("," selector)           all must match; several filters: any of them
    selector  = fieldpath [operator value]         alone: the field is present
    fieldpath = field *("." field)
    field     = quoted | 1*(letter | digit | "_")  letters and digits of ASCII
    operator  = "==" | "!=" | "~="                 "~=" searches for a regular expression
    value     = quoted | what shows on a screen, but white space and ","; not "=", "!", "~", "." at its beginning
    quoted    = a Go string in double quotes; after "~=" also in "/" or "|", with the same escapes

White space may stand before a field, an operator and a value; nothing may stand after a value but a comma. Quoted text
is bytes, so ``"\\xc3\\xa9"`` is é, and has no line break in it but as an escape. Source: containerd pkg/filters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeAlias

from portside.core.expressions import Budget, TooMuch, search_of
from portside.errors import InvalidArgument, ResourceExhausted

FieldPath: TypeAlias = tuple[str, ...]
Adaptor: TypeAlias = Callable[[FieldPath], str | None]
Filter: TypeAlias = Callable[[Adaptor], bool]

MAX_FILTER = 8192
"""Characters in one filter; nobody writes longer ones, and regular expressions cost time."""
MAX_FILTERS = 256
"""Filters in one call."""

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_QUOTES = '/|"'
_RESERVED = _QUOTES + "=!~.,\0"
_NO_SPACE = "\x1c\x1d\x1e\x1f"
"""White space for Python and not for Go."""
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|([abfnrtv\\/|\"])|)")
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def compile_filters(filters: Sequence[str]) -> Filter | None:
    """The test for ``filters``; None if everything matches. InvalidArgument shows where a filter cannot be read.

    InvalidArgument also for regular expressions that are too large; the test raises ResourceExhausted, naming the
    filter, for an object on which they take too long.
    """
    if len(filters) > MAX_FILTERS:
        raise InvalidArgument(f"filters: {len(filters)} of them, at most {MAX_FILTERS} are allowed")
    budget = Budget()
    parsed = [_Parser(text, budget).selectors() for text in filters]
    if not parsed or not all(parsed):
        return None

    def accepts(adaptor: Adaptor) -> bool:
        budget.begin()
        return any(all(selector(adaptor) for selector in selectors) for selectors in parsed)

    return accepts


class _Parser:
    """Recursive descent over one filter; ``position`` is where the next token starts."""

    def __init__(self, text: str, budget: Budget) -> None:
        if len(text) > MAX_FILTER:
            raise InvalidArgument(f"filter {_short(text)}: {len(text)} characters, at most {MAX_FILTER} are allowed")
        self.text = text
        self._budget = budget
        self.position = 0

    def selectors(self) -> list[Filter]:
        """The whole filter; an empty one matches all and is an empty list."""
        if not self.text:
            return []
        found = [self._selector()]
        while self.position < len(self.text):
            if self.text[self.position] != ",":
                raise self._error("expected a comma")
            self.position += 1
            found.append(self._selector())
        return found

    def _selector(self) -> Filter:
        path = [self._field()]
        while self.text.startswith(".", self.position):
            self.position += 1
            path.append(self._field())
        if self.position == len(self.text) or self.text[self.position] == ",":
            return _present(tuple(path))
        return self._comparison(tuple(path))

    def _field(self) -> str:
        self._skip_space()
        mark = self.text[self.position : self.position + 1]
        if mark and mark in _QUOTES:
            return self._quoted(mark, alternatives=False)
        return self._token(_FIELD, "expected a field or a quoted field")

    def _comparison(self, path: FieldPath) -> Filter:
        self._skip_space()
        start = self.position
        operator = self._token(_OPERATOR, "expected an operator (==, != or ~=)")
        if operator not in ("==", "!=", "~="):
            self.position = start
            raise self._error(f"unsupported operator {operator}")
        value = self._value(alternatives=operator == "~=")
        if operator == "~=":
            return self._matches(path, value)
        return {"==": _equal, "!=": _different}[operator](path, value)

    def _matches(self, path: FieldPath, value: str) -> Filter:
        """An expression that cannot be compiled matches nothing, as in containerd."""
        named = f"filter {_short(self.text)}: its regular expressions take"
        try:
            search = search_of(value, self._budget)
        except TooMuch as error:
            raise InvalidArgument(f"{named} {error}") from None
        if search is None:
            return lambda adaptor: False

        def matches(adaptor: Adaptor) -> bool:
            try:
                return search(adaptor(path) or "")
            except TooMuch as error:
                raise ResourceExhausted(f"{named} {error}") from None

        return matches

    def _value(self, alternatives: bool) -> str:
        self._skip_space()
        start = self.position
        mark = self.text[start : start + 1]
        if mark and mark in _QUOTES:
            return self._quoted(mark, alternatives)
        if not mark or mark in _RESERVED:
            raise self._error("expected a value or a quoted value")
        self.position += 1  # whatever it is
        while self.position < len(self.text) and _is_of_value(self.text[self.position]):
            self.position += 1
        return self.text[start : self.position]

    def _skip_space(self) -> None:
        while self.position < len(self.text) and _is_space(self.text[self.position]):
            self.position += 1

    def _quoted(self, mark: str, alternatives: bool) -> str:
        if mark != '"' and not alternatives:
            raise self._error("only double quotes can be used here")
        end = self.position + 1
        while end < len(self.text) and self.text[end] not in (mark, "\n", "\0"):
            end += 2 if self.text[end] == "\\" else 1
        if self.text[end : end + 1] != mark:
            raise self._error("quoted text does not end")
        inner = self.text[self.position + 1 : end]
        try:
            value = _unescape(inner, mark)
        except ValueError as error:
            raise self._error(str(error)) from None
        self.position = end + 1
        return value

    def _token(self, pattern: re.Pattern[str], wanted: str) -> str:
        match = pattern.match(self.text, self.position)
        if not match:
            raise self._error(wanted)
        self.position = match.end()
        return match[0]

    def _error(self, reason: str) -> InvalidArgument:
        before, here, after = (
            self.text[: self.position],
            self.text[self.position : self.position + 1],
            self.text[self.position + 1 :],
        )
        return InvalidArgument(f"filter [{before} >|{here}|< {after}]: {reason}")


def _is_space(character: str) -> bool:
    return character.isspace() and character not in _NO_SPACE


def _is_of_value(character: str) -> bool:
    """Letters, marks, numbers, punctuation and symbols, but the comma."""
    return character != "," and unicodedata.category(character)[0] in "LMNPS"


def _unescape(text: str, mark: str) -> str:
    """A Go string's content; ValueError for an escape that Go does not know."""

    def replace(match: re.Match[str]) -> str:
        byte, short, long, octal, simple = match.groups()
        if byte or octal:
            number = int(byte, 16) if byte else int(octal, 8)
            if number > 255:
                raise ValueError("an escape in quoted text is not a byte")
            # Bytes from 128 on are kept apart from text until all of it is put together.
            return chr(number) if number < 128 else chr(0xDC00 + number)
        if short or long:
            number = int(short or long, 16)
            if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
                raise ValueError("an escape in quoted text is not a character")
            return chr(number)
        if not simple or (simple in _QUOTES and simple != mark):
            raise ValueError("unknown escape in quoted text")
        return _SIMPLE.get(simple, simple)

    found = _ESCAPE.sub(replace, text)
    return found if found.isascii() else found.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _short(text: str) -> str:
    return f"{text[:60]!r}…" if len(text) > 60 else repr(text)


def _present(path: FieldPath) -> Filter:
    return lambda adaptor: adaptor(path) is not None


def _equal(path: FieldPath, value: str) -> Filter:
    return lambda adaptor: adaptor(path) == value


def _different(path: FieldPath, value: str) -> Filter:
    return lambda adaptor: (adaptor(path) or "") != value
