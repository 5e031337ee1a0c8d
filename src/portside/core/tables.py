"""Tables of a TOML file as dataclasses and back: types checked, unknown keys found, defaults written out.

A field's name is the key. Its type is one of ``str``, ``int``, ``float``, ``bool``, ``Path``, ``Seconds`` (a duration),
``tuple[X, ...]``, ``Sequence[X]``, ``list[X]``, ``Mapping[str, X]``, ``dict[str, X]`` with X of the same kind, ``Any``,
or another dataclass; every field that a file may leave out has a default. Nothing here knows what a key means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from portside.core.durations import Seconds, format_duration, parse_duration
from portside.core.toml import quoted
from portside.errors import InvalidArgument

T = TypeVar("T")

_SCALARS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("text", lambda value: isinstance(value, str)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    Path: ("a path", lambda value: isinstance(value, str)),
}


_LISTS = (tuple, Sequence, list)
_TABLES = (Mapping, dict)


def check(kind: type[Any]) -> None:
    """TypeError, naming the field, if ``kind`` is no dataclass of such fields or has fields without a default."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise TypeError(f"{kind!r} is no dataclass")
    hints = get_type_hints(kind, include_extras=True)
    for item in _fields(kind):
        if item.default is MISSING and item.default_factory is MISSING:
            raise TypeError(f"{kind.__name__}.{item.name} has no default")
        if not _fits(hints[item.name]):
            raise TypeError(f"{kind.__name__}.{item.name}: {hints[item.name]} is no type for a setting")


def _fits(hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint in _SCALARS or hint == Seconds:
        return True
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is ... and _fits(arguments[0])
    if origin in _LISTS:
        return _fits(arguments[0])
    if origin in _TABLES:
        return arguments[0] is str and _fits(arguments[1])
    if is_dataclass(hint) and isinstance(hint, type):
        return all(_fits(inner) for inner in get_type_hints(hint, include_extras=True).values())
    return False


def decode(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass ``kind``; keys it does not have are left alone.

    InvalidArgument names the key, below ``where``, and what it must be.
    """
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for item in _fields(kind):
        at = _join(where, item.name)
        if item.name in table:
            values[item.name] = _decode(hints[item.name], table[item.name], at)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise InvalidArgument(f"{at}: is missing")
    return kind(**values)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, _table(value, where), where)
    if origin is Annotated:
        try:
            return max(0.0, parse_duration(value))
        except InvalidArgument as error:
            raise InvalidArgument(f"{where}: {error}") from None
    if origin in _LISTS:
        if not isinstance(value, list | tuple):
            raise InvalidArgument(f"{where}: want a list, not {value!r}")
        items = [_decode(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value)]
        return items if origin is list else tuple(items)
    if origin in _TABLES:
        table = _table(value, where)
        return {key: _decode(arguments[1], item, _join(where, key)) for key, item in table.items()}
    words, fits = _SCALARS[hint]
    if not fits(value):
        raise InvalidArgument(f"{where}: want {words}, not {value!r}")
    return float(value) if hint is float else Path(value) if hint is Path else value


def encode(instance: Any) -> dict[str, Any]:
    """What ``decode`` would read ``instance`` from, with all its keys, in the order of its fields."""
    hints = get_type_hints(type(instance), include_extras=True)
    return {item.name: _encode(hints[item.name], getattr(instance, item.name)) for item in fields(instance)}


def _encode(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(value) and not isinstance(value, type):
        return encode(value)
    if origin is Annotated:
        return format_duration(value)
    if origin in _LISTS:
        return [_encode(arguments[0], item) for item in value]
    if origin in _TABLES:
        return {key: _encode(arguments[1], item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def unknown(kind: type[Any], table: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The dotted names, below ``where``, of the keys of ``table`` that ``kind`` does not have."""
    hints = get_type_hints(kind, include_extras=True)
    known = {item.name for item in _fields(kind)}
    for key, value in table.items():
        at = _join(where, key)
        if key in known:
            yield from _unknown(hints[key], value, at)
        else:
            yield from _leaves(value, at)


def _unknown(hint: Any, value: Any, where: str) -> Iterator[str]:
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        yield from unknown(hint, value, where)
    elif get_origin(hint) in _TABLES and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unknown(get_args(hint)[1], item, _join(where, key))


def _leaves(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, _join(where, key))
    else:
        yield where


def _fields(kind: type[Any]) -> tuple[Field[Any], ...]:
    return fields(kind)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{where}: want a table, not {value!r}")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{quoted(key)}" if where else quoted(key)
