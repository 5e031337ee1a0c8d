"""``portside wait``: until containers have ended."""

from __future__ import annotations

from portside.cli.door import Door
from portside.cli.options import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb("wait", "CONTAINER...", "Wait until containers end, and print how they ended.")


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0; the statuses are printed, one a line."""
    with Door(context) as door:
        for name in arguments:
            print(door.call("Wait", {"container": name}, timeout=None)["exit_status"], flush=True)
    return 0
