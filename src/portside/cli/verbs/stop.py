"""``portside stop``: the stop signal, then, after a while, SIGKILL."""

from __future__ import annotations

from portside.cli.each import for_each
from portside.cli.options import Option, UsageError, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "stop",
    "CONTAINER...",
    "Stop containers: the stop signal, then SIGKILL.",
    (
        Option("-t", "--time", value="SECONDS", help="how long to wait before SIGKILL (10)", default="-1"),
        Option("-s", "--signal", value="SIGNAL", help="instead of the container's stop signal"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 if all of them could be stopped."""
    seconds = values["time"]
    if not seconds.removeprefix("-").isdigit():
        raise UsageError(f"--time {seconds!r}: want seconds")
    # The daemon waits for the container, so the call may take that long and some more.
    return for_each(
        context, arguments, "Stop", timeout=int(seconds), signal=values["signal"], patience=max(int(seconds), 10) + 30
    )
