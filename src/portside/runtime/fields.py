"""Reading fields out of JSON that others wrote: each function checks one type and names the field when it is wrong."""

from __future__ import annotations

import os

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: The most entries that a list or an object may have.
MAX_ENTRIES = 100_000


def at(where: str, name: str) -> str:
    """The place of field ``name`` in ``where``: "process.user"."""
    return f"{where}.{name}" if where else name


def _string(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{place}: must be a string")
    if "\0" in value:
        raise InvalidArgument(f"{place}: holds a NUL byte")
    if not value.isascii():
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise InvalidArgument(f"{place}: is not text that a path can hold") from None
    return value


def text(document: Mapping[str, Any], name: str, where: str, required: bool = False) -> str:
    """A string without NUL, "" if it is absent; with ``required`` it must be there and not empty."""
    value = document.get(name)
    if value is None or value == "":
        if required:
            raise InvalidArgument(f"{at(where, name)}: is required")
        return ""
    return _string(value, at(where, name))


def boolean(document: Mapping[str, Any], name: str, where: str) -> bool:
    """True or false; false if it is absent."""
    value = document.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidArgument(f"{at(where, name)}: must be true or false")
    return value


def _number(value: Any, place: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"{place}: must be a whole number")
    if not low <= value <= high:
        raise InvalidArgument(f"{place}: must be from {low} to {high}")
    return value


def integer(document: Mapping[str, Any], name: str, where: str, default: int, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``; ``default`` if it is absent."""
    value = document.get(name)
    return default if value is None else _number(value, at(where, name), low, high)


def _list(document: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise InvalidArgument(f"{at(where, name)}: must be a list of at most {MAX_ENTRIES}")
    return value


def strings(document: Mapping[str, Any], name: str, where: str) -> list[str]:
    """A list of strings without NUL; empty if it is absent."""
    return [_string(value, f"{at(where, name)}[{i}]") for i, value in enumerate(_list(document, name, where))]


def integers(document: Mapping[str, Any], name: str, where: str, low: int, high: int) -> list[int]:
    """A list of whole numbers from ``low`` to ``high``; empty if it is absent."""
    return [
        _number(value, f"{at(where, name)}[{i}]", low, high) for i, value in enumerate(_list(document, name, where))
    ]


def objects(document: Mapping[str, Any], name: str, where: str) -> list[tuple[dict[str, Any], str]]:
    """A list of objects, each with its place for messages; empty if it is absent."""
    found = []
    for index, value in enumerate(_list(document, name, where)):
        place = f"{at(where, name)}[{index}]"
        if not isinstance(value, dict):
            raise InvalidArgument(f"{place}: must be an object")
        found.append((value, place))
    return found


def section(document: Mapping[str, Any], name: str, where: str, required: bool = False) -> dict[str, Any]:
    """An object, empty if it is absent (which ``required`` forbids)."""
    value = document.get(name)
    if value is None:
        if required:
            raise InvalidArgument(f"{at(where, name)}: is required")
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"{at(where, name)}: must be an object")
    return value


def text_map(document: Mapping[str, Any], name: str, where: str) -> dict[str, str]:
    """An object of strings."""
    found = section(document, name, where)
    for key, value in found.items():
        _string(key, at(where, name))
        _string(value, at(at(where, name), key[:80]))
    return found
