"""The start of a command: ``portside version`` against ``ctr version``, both asking the same daemon.

Usage: python -m bench.commands [ROUNDS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.measure import HEAD, Row, alternate, command
from bench.stacks import ours


def measure(rounds: int) -> list[Row]:
    """All rows of this module."""
    with tempfile.TemporaryDirectory(prefix="portside-bench-") as name, ours(Path(name)) as stack:
        own = str(Path(sys.executable).parent / "portside")
        address = str(stack.reach)
        mine, theirs = alternate(
            [command(own, "--address", address, "version"), command("ctr", "--address", address, "version")], rounds
        )
    return [Row("start of a command, `version`", "ctr", mine, theirs, "ms", 1.0)]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print(HEAD)
    for row in measure(rounds):
        print(row.markdown())


if __name__ == "__main__":
    main()
