"""Verbs that do one thing to each of several containers: all are tried, failures are told one by one."""

from __future__ import annotations

import sys

from portside.cli.door import TIMEOUT, Door
from portside.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from portside.cli.main import Context


def for_each(context: Context, names: Sequence[str], method: str, *, patience: float = TIMEOUT, **fields: Any) -> int:
    """Ask ``method`` for each name and print the names that went well; 1 if one did not."""
    status = 0
    with Door(context) as door:
        for name in names:
            try:
                door.call(method, {"container": name, **fields}, timeout=patience)
                print(name, flush=True)
            except PortsideError as error:
                print(f"portside: {error}", file=sys.stderr)
                status = 1
    return status
