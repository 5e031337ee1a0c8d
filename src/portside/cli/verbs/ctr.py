"""``portside ctr``: see ``portside.cli.ctr``."""

from __future__ import annotations

from portside.cli.options import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from portside.cli.main import Context


class _Everything(Verb):
    """Takes the whole line: the groups have options of their own."""

    def parse(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        return {"help": False}, list(argv)


VERB = _Everything("ctr", "GROUP VERB [ARG...]", "containerd's own command, with its grammar.")


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """The verb's exit status."""
    from portside.cli.ctr.main import main

    return main(context, arguments)
