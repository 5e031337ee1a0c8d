"""Times as the commands read and write them."""

from __future__ import annotations

import re
import time

from portside.cli.options import UsageError

_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds of ``24h``, ``1m30s`` or ``0``; UsageError."""
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"duration {text!r}: want something like 24h or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def rfc3339(ns: int) -> str:
    """UTC, to the second, as containerd's labels have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns // 1_000_000_000))
