"""How ``ctr`` writes: tables of Go's text/tabwriter, sizes of go-units, times of Go's package time, indented JSON."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

NARROW = (1, 1, " ")
"""Least width, padding and filling of a column; a filling of tabs rounds up to multiples of eight."""
WIDE = (4, 4, " ")
MIDDLE = (1, 4, " ")
TABBED = (1, 1, "\t")
_TAB = 8
_ZERO_TIME = "0001-01-01T00:00:00Z"


def print_table(lines: Iterable[str], form: tuple[int, int, str] = NARROW) -> None:
    """Print ``lines``, whose cells end with tabs; what follows the last tab of a line is in no column."""
    for line in table(lines, form):
        print(line)


def table(lines: Iterable[str], form: tuple[int, int, str] = NARROW) -> list[str]:
    """The lines as text/tabwriter aligns them: a column is a run of lines that have a cell there."""
    least, padding, filling = form
    rows = [line.split("\t") for line in lines]
    widths = [[0] * (len(row) - 1) for row in rows]
    for column in range(max((len(row) - 1 for row in rows), default=0)):
        first = 0
        while first < len(rows):
            end = first
            while end < len(rows) and len(rows[end]) - 1 > column:
                end += 1
            width = max((len(row[column]) for row in rows[first:end]), default=0)
            for number in range(first, end):
                widths[number][column] = max(least, width + padding)
            first = end + 1
    return [
        "".join(_padded(cell, width, filling) for cell, width in zip(row, sizes, strict=False)) + row[-1]
        for row, sizes in zip(rows, widths, strict=True)
    ]


def _padded(cell: str, width: int, filling: str) -> str:
    if filling != "\t":
        return cell + filling * (width - len(cell))
    missing = -(-width // _TAB) * _TAB - len(cell)
    return cell + "\t" * -(-missing // _TAB)


def binary_size(size: float) -> str:
    """``1.0 MiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    value, index = float(size), 0
    while value >= 1024 and index < len(units) - 1:
        value, index = value / 1024, index + 1
    return f"{value:02.1f} {units[index]}"


def decimal_size(size: float) -> str:
    """``1.095MB``: four digits."""
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    value, index = float(size), 0
    while value >= 1000 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    return f"{value:.4g}{units[index]}"


_AGES = (
    (48 * 3600, 3600, "hours"), (24 * 14 * 3600, 24 * 3600, "days"), (24 * 60 * 3600, 7 * 24 * 3600, "weeks"),
    (24 * 730 * 3600, 30 * 24 * 3600, "months"),
)  # fmt: skip


def age(since_ns: int) -> str:
    """How long ago: ``About a minute``, ``3 weeks``."""
    passed = max(0.0, time.time() - since_ns / 1e9)
    whole = int(passed)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if whole < 3600:
        return "About a minute" if whole < 120 else f"{whole // 60} minutes"
    hours = int(passed / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, name in _AGES:
        if hours * 3600 < limit:
            return f"{hours * 3600 // unit} {name}"
    return f"{whole // (365 * 24 * 3600)} years"


def iso_time(ns: int) -> str:
    """As Go's JSON has it: ``2026-08-22T17:21:51.5Z``; nothing is year 1."""
    if not ns:
        return _ZERO_TIME
    seconds, rest = divmod(ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def plain_time(ns: int) -> str:
    """As Go prints one: ``2026-08-22 17:21:51.5 +0000 UTC``."""
    return iso_time(ns).replace("T", " ").removesuffix("Z") + " +0000 UTC"


def local_time(ns: int) -> str:
    """RFC 3339 with this machine's offset, to the second."""
    moment = time.localtime(ns // 1_000_000_000)
    offset = time.strftime("%z", moment)
    zone = "Z" if offset in ("+0000", "-0000") else f"{offset[:3]}:{offset[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + zone


_ESCAPES = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def json_text(document: Any, indent: int | None = 4) -> str:
    """JSON as Go's encoder writes it, characters of HTML escaped."""
    import json

    text = json.dumps(
        document, indent=indent, ensure_ascii=False, separators=None if indent is not None else (",", ":")
    )
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text


def print_json(document: Any) -> None:
    """With an indent of four."""
    print(json_text(document))


def label_text(labels: Mapping[str, str], nothing: str = "-") -> str:
    """Labels in one cell, sorted; ``nothing`` for none."""
    return ",".join(sorted(f"{key}={value}" for key, value in labels.items())) or nothing
