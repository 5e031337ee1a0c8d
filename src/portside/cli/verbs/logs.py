"""``portside logs``: what a container wrote."""

from __future__ import annotations

import sys

from portside.cli.door import Door
from portside.cli.options import Option, UsageError, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "logs",
    "CONTAINER",
    "Show what a container wrote: its standard output on ours, its errors on ours.",
    (
        Option("-f", "--follow", help="go on until the container has ended"),
        Option("-n", "--tail", value="LINES", help="only the last lines", default="all"),
        Option("-t", "--timestamps", help="with the time of each line"),
        Option("--since", value="TIME", help="not before: RFC 3339, seconds since 1970, or 10m"),
        Option("--until", value="TIME", help="not after"),
    ),
)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0."""
    tail = values["tail"]
    if tail != "all" and not tail.isdigit():
        raise UsageError(f"--tail {tail!r}: want a number of lines or all")
    request = {
        "container": arguments[0],
        "follow": values["follow"],
        "tail": -1 if tail == "all" else int(tail),
        "since_ns": moment(values["since"]),
        "until_ns": moment(values["until"]),
    }
    out, err = sys.stdout.buffer, sys.stderr.buffer
    fresh = True
    with Door(context) as door:
        for entry in door.stream("Logs", request):
            target = err if entry["stream"] == "stderr" else out
            if values["timestamps"] and fresh:
                target.write(stamp(entry["time_ns"]).encode() + b" ")
            target.write(entry["data"])
            target.flush()
            fresh = entry["data"].endswith(b"\n")
    return 0


def moment(text: str) -> int:
    """Nanoseconds since the epoch for what people write; 0 for nothing; UsageError."""
    import time

    if not text:
        return 0
    if text[-1] in _UNITS and text[:-1].isdigit():
        return time.time_ns() - int(text[:-1]) * _UNITS[text[-1]] * 1_000_000_000
    if text.replace(".", "", 1).isdigit():
        return int(float(text) * 1e9)
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise UsageError(f"time {text!r}: want RFC 3339, seconds since 1970, or an age such as 10m") from None


def stamp(ns: int) -> str:
    """RFC 3339 with nanoseconds, UTC."""
    import time

    seconds, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
