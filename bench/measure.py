"""Medians, ratios and rows: how every benchmark here counts and prints."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against a peer, smaller is better unless ``more`` says otherwise."""

    work: str
    peer: str
    ours: float
    theirs: float
    unit: str
    budget: float | None = None
    more: bool = False

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.theirs else float("inf")

    @property
    def holds(self) -> bool | None:
        if self.budget is None:
            return None
        return self.ratio >= self.budget if self.more else self.ratio <= self.budget

    def markdown(self) -> str:
        mark = {None: "", True: "holds", False: "**falls short**"}[self.holds]
        sign = "≥" if self.more else "≤"
        budget = f"{sign} {self.budget:g} ×" if self.budget is not None else ""
        return (
            f"| {self.work} | {self.peer} | {self.ours:.3g} {self.unit} | {self.theirs:.3g} {self.unit} "
            f"| {self.ratio:.2f} × | {budget} | {mark} |"
        )


HEAD = "| work | peer | portside | peer's | ratio | budget | |\n|---|---|---|---|---|---|---|"


def alternate(actions: Sequence[Callable[[], object]], rounds: int, warm: int = 2) -> list[float]:
    """Median milliseconds of each action; the actions take turns, so that drift of the machine hits all alike."""
    times: list[list[float]] = [[] for _ in actions]
    for count in range(warm + rounds):
        for index, action in enumerate(actions):
            begin = time.perf_counter()
            action()
            if count >= warm:
                times[index].append((time.perf_counter() - begin) * 1000)
    return [statistics.median(column) for column in times]


def command(*words: str, status: int = 0) -> Callable[[], object]:
    """An action that runs a command and insists on its status."""

    def action() -> None:
        result = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)
        if result.returncode != status:
            raise RuntimeError(f"{' '.join(words)}: status {result.returncode}: {result.stderr.decode()[-500:]}")

    return action


def pss(pid: int) -> float:
    """Proportional set size of a process in MB: shared pages count by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no Pss")


def processes(word: str) -> list[int]:
    """Pids of processes whose command line or name has ``word``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes() + b" " + (entry / "comm").read_bytes()
            except OSError:
                continue
            if word.encode() in line:
                found.append(int(entry.name))
    return found
