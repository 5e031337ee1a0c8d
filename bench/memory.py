"""Memory: the daemon fresh and with containers, and the shims of idle containers, as proportional set sizes.

Of ours, the zygote counts with the shims, which share most of its memory, and in a row with the fresh daemon.

Usage: python -m bench.memory [COUNT...] (default 1 20 100)
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import stacks
from bench.measure import HEAD, Row, processes, pss
from bench.stacks import Stack
from tests.support import images, peers

DAEMON_BUDGET = {"1.6": 1.25, "2.1": 0.65}
SHIM_BUDGET = {("1.6", 20): 0.45, ("2.1", 20): 0.25, ("2.1", 100): 0.22}


REST = 8.0
"""Seconds without a process coming or going: workers have fallen asleep then, and the spare has been dismissed."""


def shims(stack: Stack, before: set[int]) -> set[int]:
    """Pids of the shims that have appeared, once they have come to rest; ours come with their zygote."""
    words = ("portside-shim", "portside-zygote") if stack.name == "portside" else ("containerd-shim-runc-v2",)
    since, deadline = time.monotonic(), time.monotonic() + 60
    found: set[int] = set()
    while time.monotonic() - since < REST and time.monotonic() < deadline:
        now = {pid for word in words for pid in processes(word)} - before
        if now != found:
            found, since = now, time.monotonic()
        time.sleep(0.2)
    return found


def idle(stack: Stack, image: str, counts: list[int], before: set[int]) -> list[tuple[int, float, float]]:
    """For each count: it, the daemon's PSS, that of its shims for each container."""
    made, figures = 0, []
    for count in counts:
        while made < count:
            stack.call("run", "-d", "--null-io", image, f"idle{stack.pid}-{made}", "sleep", "100000")
            made += 1
        figures.append((count, pss(stack.pid), sum(map(pss, shims(stack, before))) / count))
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
        before = set(processes("shim")) | set(processes("zygote"))
        image = images.push(registry, "bench/busybox", "latest", images.busybox_image())
        us = scope.enter_context(stacks.ours(directory / "ours"))
        others = [scope.enter_context(stacks.debian(directory / "debian"))]
        if found.returncode == 0:
            others.append(scope.enter_context(stacks.newer(Path(found.stdout.strip()))))
        fresh = {stack.name: pss(stack.pid) for stack in (us, *others)}
        zygote = sum(map(pss, shims(us, before)))
        for stack in (us, *others):
            stack.call("images", "pull", "--plain-http", image)
        ours = idle(us, image, counts, before)
        print(HEAD)
        for peer in others:
            version = peer.name.split()[1][:3]
            budget = DAEMON_BUDGET.get(version)
            print(Row("daemon, fresh, PSS", peer.name, fresh[us.name], fresh[peer.name], "MB", budget).markdown())
            both = fresh[us.name] + zygote
            print(Row("daemon and zygote, fresh, PSS", peer.name, both, fresh[peer.name], "MB").markdown())
            for mine, theirs in zip(ours, idle(peer, image, counts, before), strict=True):
                count = mine[0]
                name = f"with {count} idle containers, PSS"
                print(Row(f"daemon {name}", peer.name, mine[1], theirs[1], "MB", budget).markdown())
                limit = SHIM_BUDGET.get((version, count))
                print(
                    Row(
                        f"shims, for each of {count} idle containers, PSS", peer.name, mine[2], theirs[2], "MB", limit
                    ).markdown(),
                    flush=True,
                )


if __name__ == "__main__":
    main()
