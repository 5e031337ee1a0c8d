"""``portside unpause``: thaw paused containers."""

from __future__ import annotations

from portside.cli.each import for_each
from portside.cli.options import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb("unpause", "CONTAINER...", "Thaw paused containers.")


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 if all of them could be done."""
    return for_each(context, arguments, "Resume")
