"""Log lines as Kubernetes' CRI has them: ``<RFC 3339 time> <stream> <tag> <text>``.

Tag F: a newline followed the text; P: none did. So the bytes that were written can be had back exactly.
"""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A piece of output of ``stdout`` or ``stderr``; ``data`` ends with a newline exactly if the program wrote one."""

    time_ns: int
    stream: str
    data: bytes


def parse_line(line: bytes) -> LogEntry | None:
    """The entry in one line without its newline; None for what is not one, as a crash may leave it."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    try:
        stamp = parse_time(parts[0].decode("ascii"))
    except ValueError:
        return None
    full = parts[2].split(b":")[0] == b"F"
    return LogEntry(stamp, parts[1].decode(), parts[3] + (b"\n" if full else b""))


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of ``2026-01-02T03:04:05[.123456789]`` and ``Z`` or ``+01:00``; ValueError."""
    offset = 0
    if text.endswith(("Z", "z")):
        text = text[:-1]
    elif text[-6:-5] in ("+", "-"):
        hours, minutes = int(text[-5:-3]), int(text[-2:])
        offset = (hours * 3600 + minutes * 60) * (1 if text[-6] == "+" else -1)
        text = text[:-6]
    whole, _, fraction = text.partition(".")
    if fraction and not fraction.isdigit():
        raise ValueError(f"time {text!r}: the fraction is not digits")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - offset
    return seconds * 1_000_000_000 + int((fraction + "000000000")[:9])
