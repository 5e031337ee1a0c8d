"""Memory: the daemon fresh and with containers, and an idle shim, as proportional set sizes.

Usage: python -m bench.memory [COUNT...] (default 1 20 100)
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import stacks
from bench.measure import HEAD, Row, processes, pss
from bench.stacks import Stack
from tests.support import images, peers

DAEMON_BUDGET = {"1.6": 1.25, "2.1": 0.65}
SHIM_BUDGET = {("1.6", 20): 0.45, ("2.1", 20): 0.25, ("2.1", 100): 0.22}


def shim(stack: Stack, before: set[int]) -> float:
    """Median PSS of the shims that have appeared."""
    word = "portside-shim" if stack.name == "portside" else "containerd-shim-runc-v2"
    return statistics.median(pss(pid) for pid in processes(word) if pid not in before)


def idle(stack: Stack, image: str, counts: list[int]) -> list[tuple[int, float, float]]:
    """For each count: it, the daemon's PSS, the median shim's."""
    before = set(processes("shim"))
    made, figures = 0, []
    for count in counts:
        while made < count:
            stack.call("run", "-d", "--null-io", image, f"idle{stack.pid}-{made}", "sleep", "100000")
            made += 1
        figures.append((count, pss(stack.pid), shim(stack, before)))
    for number in range(made):
        stack.call("tasks", "rm", "-f", f"idle{stack.pid}-{number}")
        stack.call("containers", "rm", f"idle{stack.pid}-{number}")
    return figures


def main() -> None:
    """Print the table."""
    counts = [int(word) for word in sys.argv[1:]] or [1, 20, 100]
    found = subprocess.run(["script/peers"], capture_output=True, text=True)
    with contextlib.ExitStack() as scope:
        directory = Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="portside-bench-")))
        registry = scope.enter_context(peers.registry(directory / "registry"))
        image = images.push(registry, "bench/busybox", "latest", images.busybox_image())
        us = scope.enter_context(stacks.ours(directory / "ours"))
        others = [scope.enter_context(stacks.debian(directory / "debian"))]
        if found.returncode == 0:
            others.append(scope.enter_context(stacks.newer(Path(found.stdout.strip()))))
        fresh = {stack.name: pss(stack.pid) for stack in (us, *others)}
        for stack in (us, *others):
            stack.call("images", "pull", "--plain-http", image)
        ours = idle(us, image, counts)
        print(HEAD)
        for peer in others:
            version = peer.name.split()[1][:3]
            budget = DAEMON_BUDGET.get(version)
            print(Row("daemon, fresh, PSS", peer.name, fresh[us.name], fresh[peer.name], "MB", budget).markdown())
            for mine, theirs in zip(ours, idle(peer, image, counts), strict=True):
                count = mine[0]
                name = f"with {count} idle containers, PSS"
                print(Row(f"daemon {name}", peer.name, mine[1], theirs[1], "MB", budget).markdown())
                limit = SHIM_BUDGET.get((version, count))
                print(Row(f"a shim {name}", peer.name, mine[2], theirs[2], "MB", limit).markdown(), flush=True)


if __name__ == "__main__":
    main()
