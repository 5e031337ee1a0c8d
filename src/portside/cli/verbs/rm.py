"""``portside rm``: remove containers."""

from __future__ import annotations

from portside.cli.each import for_each
from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb("rm", "CONTAINER...", "Remove containers.", (Option("-f", "--force", help="also if they run"),))


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 if all of them could be done."""
    return for_each(context, arguments, "Remove", force=values["force"])
