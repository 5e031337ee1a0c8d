"""containerd's filter grammar: which records a List or Subscribe call wants.

    filter    = selector *("," selector)           all must match; several filters: any of them
    selector  = fieldpath [operator value]         alone: the field is present
    fieldpath = field *("." field)
    field     = quoted | letter *(letter | digit | "_")
    operator  = "==" | "!=" | "~="                 "~=" searches for a regular expression
    value     = quoted | anything but white space, "," and the like
    quoted    = a Go string in double quotes; after "~=" also text between "/" or "|"

White space may stand before a field, an operator and a value, as in containerd, whose own client writes ``a==b, c==d``.

What a record shows is decided by its adaptor, a function from a field path to its text (None: not present). The
adaptors of our own records are here, those of events and plugins with their owners. Source: containerd pkg/filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from portside.core.containers import Container
from portside.core.content import ContentInfo, IngestStatus
from portside.core.images import Image
from portside.core.leases import Lease
from portside.core.mounts import Activation
from portside.core.sandboxes import Sandbox
from portside.core.snapshots import Kind, SnapshotInfo
from portside.errors import InvalidArgument

FieldPath: TypeAlias = tuple[str, ...]
Adaptor: TypeAlias = Callable[[FieldPath], str | None]
Filter: TypeAlias = Callable[[Adaptor], bool]

MAX_FILTER = 8192
"""Characters in one filter; nobody writes longer ones, and regular expressions cost time."""
MAX_FILTERS = 256
"""Filters in one call."""

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"[=!~<>]+")
_VALUE = re.compile(r"[^\s,\"]+")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|[abfnrtv\\'\"])|\\", re.DOTALL)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def compile_filters(filters: Sequence[str]) -> Filter | None:
    """The test for ``filters``; None if everything matches. InvalidArgument shows where a filter cannot be read."""
    if len(filters) > MAX_FILTERS:
        raise InvalidArgument(f"filters: {len(filters)} of them, at most {MAX_FILTERS} are allowed")
    parsed = [_Parser(text).selectors() for text in filters]
    if not parsed or not all(parsed):
        return None
    return lambda adaptor: any(all(selector(adaptor) for selector in selectors) for selectors in parsed)


class _Parser:
    """Recursive descent over one filter; ``position`` is where the next token starts."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_FILTER:
            raise InvalidArgument(f"filter {text[:60]!r}…: {len(text)} characters, at most {MAX_FILTER} are allowed")
        self.text = text
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
        if self.text.startswith('"', self.position):
            return self._quoted('"')
        return self._token(_FIELD, "expected a field or a quoted field")

    def _comparison(self, path: FieldPath) -> Filter:
        self._skip_space()
        start = self.position
        operator = self._token(_OPERATOR, "expected an operator (==, != or ~=)")
        if operator not in ("==", "!=", "~="):
            self.position = start
            raise self._error(f"unsupported operator {operator}")
        self._skip_space()
        mark = self.text[self.position : self.position + 1]
        value = (
            self._quoted(mark)
            if mark == '"' or (operator == "~=" and mark in ("/", "|"))
            else self._token(_VALUE, "expected a value or a quoted value")
        )
        return {"==": _equal, "!=": _different, "~=": _matches}[operator](path, value)

    def _skip_space(self) -> None:
        while self.text[self.position : self.position + 1].isspace():
            self.position += 1

    def _quoted(self, mark: str) -> str:
        end = self.position + 1
        while end < len(self.text) and self.text[end] != mark:
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            raise self._error("quoted text does not end")
        inner = self.text[self.position + 1 : end]
        try:
            value = _unescape(inner) if mark == '"' else inner.replace("\\" + mark, mark)
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


def _unescape(text: str) -> str:
    """A Go string's content; ValueError for an escape that Go does not know."""

    def replace(match: re.Match[str]) -> str:
        code = match[1]
        if code is None:
            raise ValueError("unknown escape in quoted text")
        if code[0] in "xuU":
            number = int(code[1:], 16)
        elif len(code) == 3:
            number = int(code, 8)
        else:
            return _SIMPLE.get(code, code)
        if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
            raise ValueError("escape in quoted text is not a character")
        return chr(number)

    return _ESCAPE.sub(replace, text)


def _present(path: FieldPath) -> Filter:
    return lambda adaptor: adaptor(path) is not None


def _equal(path: FieldPath, value: str) -> Filter:
    return lambda adaptor: adaptor(path) == value


def _different(path: FieldPath, value: str) -> Filter:
    return lambda adaptor: (adaptor(path) or "") != value


def _matches(path: FieldPath, value: str) -> Filter:
    """An expression that cannot be compiled matches nothing, as in containerd."""
    try:
        search = re.compile(value).search
    except (re.error, RecursionError, OverflowError):
        return lambda adaptor: False
    return lambda adaptor: search(adaptor(path) or "") is not None


def from_map(path: Iterable[str], values: Mapping[str, str]) -> str | None:
    """A label by the rest of its path, which may have dots: ``labels.a.b`` is the label ``a.b``."""
    return values.get(".".join(path))


def container_fields(container: Container) -> Adaptor:
    """``id``, ``image``, ``runtime.name``, ``labels.<key>``; ours: ``snapshotter``, ``snapshot_key``, ``sandbox``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["id"]:
                return container.id or None
            case ["image"]:
                return container.image or None
            case ["runtime", "name"]:
                return container.runtime or None
            case ["snapshotter"]:
                return container.snapshotter or None
            case ["snapshot_key"]:
                return container.snapshot_key or None
            case ["sandbox"]:
                return container.sandbox_id or None
            case ["labels", *rest]:
                return from_map(rest, container.labels)
        return None

    return field


def image_fields(image: Image) -> Adaptor:
    """``name``, ``target.digest``, ``target.mediatype``, ``labels.<key>``, ``annotations.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["name"]:
                return image.name or None
            case ["target", "digest"]:
                return str(image.target.digest)
            case ["target", "mediatype"]:
                return image.target.media_type or None
            case ["labels", *rest]:
                return from_map(rest, image.labels)
            case ["annotations", *rest]:
                return from_map(rest, image.target.annotations)
        return None

    return field


def content_fields(info: ContentInfo) -> Adaptor:
    """``digest``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["digest"]:
                return str(info.digest)
            case ["labels", *rest]:
                return from_map(rest, info.labels)
        return None

    return field


def ingest_fields(status: IngestStatus) -> Adaptor:
    """``ref``."""
    return lambda path: status.ref if path == ("ref",) else None


def lease_fields(lease: Lease) -> Adaptor:
    """``id``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["id"]:
                return lease.id or None
            case ["labels", *rest]:
                return from_map(rest, lease.labels)
        return None

    return field


_KINDS = {Kind.ACTIVE: "active", Kind.VIEW: "view", Kind.COMMITTED: "committed"}


def snapshot_fields(info: SnapshotInfo) -> Adaptor:
    """``kind`` (active, view, committed), ``name``, ``parent``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["kind"]:
                return _KINDS.get(info.kind)
            case ["name"]:
                return info.name
            case ["parent"]:
                return info.parent or None
            case ["labels", *rest]:
                return from_map(rest, info.labels)
        return None

    return field


def sandbox_fields(sandbox: Sandbox) -> Adaptor:
    """``id``, ``labels.<key>``; ours: ``runtime.name``, ``sandboxer``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["id"]:
                return sandbox.id
            case ["runtime", "name"]:
                return sandbox.runtime or None
            case ["sandboxer"]:
                return sandbox.sandboxer or None
            case ["labels", *rest]:
                return from_map(rest, sandbox.labels)
        return None

    return field


def activation_fields(activation: Activation) -> Adaptor:
    """``name``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["name"]:
                return activation.name
            case ["labels", *rest]:
                return from_map(rest, activation.labels)
        return None

    return field
