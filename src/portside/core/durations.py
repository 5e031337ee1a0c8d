"""Durations as Go reads and writes them (``time.ParseDuration``): in containerd's configuration and in labels."""

from __future__ import annotations

import re
from typing import Annotated, Any

from portside.errors import InvalidArgument

DURATION = "duration"
Seconds = Annotated[float, DURATION]
"""A field of a settings dataclass that is a duration in the file (``core/tables.py``)."""

_PART = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_LENGTH = 64
_LONGEST = float(1 << 33)
"""Go's durations end at 292 years; so do ours, about."""


def parse_duration(value: Any) -> float:
    """Seconds of ``100ms``, ``1h30m``, ``-2s`` or ``0``, or of a number of seconds; InvalidArgument."""
    seconds = _LONGEST
    if isinstance(value, str) and len(value) <= _MAX_LENGTH:
        text = value.strip()
        body = text[1:] if text[:1] in ("-", "+") else text
        parts = _PART.findall(body)
        if body and (body == "0" or (parts and "".join(map("".join, parts)) == body)):
            sign = -1 if text[0] == "-" else 1
            seconds = sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LONGEST:
        seconds = float(value)
    if abs(seconds) < _LONGEST:
        return seconds
    raise InvalidArgument(f"duration {value!r}: want numbers with ns, us, ms, s, m or h, such as 1m30s")


def format_duration(seconds: float) -> str:
    """As Go prints it: ``0s``, ``100ms``, ``1m30s``, ``4h0m0s``; to the nanosecond."""
    sign, ns = "-" if seconds < 0 else "", round(abs(seconds) * 1e9)
    if ns == 0:
        return "0s"
    for unit, size in (("ns", 1_000), ("µs", 1_000_000), ("ms", 1_000_000_000)):
        if ns < size:
            return f"{sign}{_decimal(ns, size // 1_000)}{unit}"
    minutes, rest = divmod(ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, 1_000_000_000) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    return f"{whole}.{part:0{len(str(unit)) - 1}d}".rstrip("0").rstrip(".") if part else str(whole)
