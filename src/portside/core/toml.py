"""Writing TOML 1.0 (the standard library only reads it), laid out as containerd prints its configuration.

Plain values of a table come before its tables, tables are indented by two spaces, and text is in single quotes where
it can be. The order of keys is that of the mapping, so that the same document always gives the same text.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from portside.errors import InvalidArgument

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def dumps(document: Mapping[str, Any]) -> str:
    """The text of ``document``; InvalidArgument for a value that TOML cannot say (None, objects)."""
    return "\n".join(_table(document, ())).lstrip("\n") + "\n"


def quoted(key: str) -> str:
    """``key`` as it stands in a dotted name."""
    return key if key and _BARE.issuperset(key) else _text(key)


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    pad = "  " * len(path)
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{pad}{quoted(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            name = (*path, key)
            if len(name) < 3:
                yield ""
            yield f"{pad}[{'.'.join(map(quoted, name))}]"
            yield from _table(value, name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(key)} = {_value(item)}" for key, item in value.items()) + "}"
    raise InvalidArgument(f"{value!r} cannot be written as TOML")


def _float(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)  # as short as it reads back the same, and never without a point or an exponent


def _text(text: str) -> str:
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    # JSON's escapes are among TOML's; DEL must be escaped in TOML and is not in JSON.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
