"""What is being moved, for people: a bar for each blob on a terminal, a line for each finished blob elsewhere."""

from __future__ import annotations

import sys

from portside.cli.table import human_size
from portside.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

FINAL = ("done", "downloaded", "exists", "extracted", "uploaded")


def follow(events: Iterable[Mapping[str, Any]], *, quiet: bool) -> Mapping[str, Any]:
    """Show ``events`` until the work is done; what was done. The daemon's error comes out as it is."""
    if not quiet and sys.stderr.isatty():
        return _follow_live(events)
    for event in events:
        if done := event.get("done"):
            return done  # type: ignore[no-any-return]
        if not quiet and (progress := event.get("progress")):
            _plain(progress)
    raise Unavailable("the daemon ended the call before the work was done")


def _plain(progress: Mapping[str, Any]) -> None:
    if progress["stage"] in FINAL:
        size = f" {human_size(progress['total'])}" if progress["total"] else ""
        print(f"{short(progress['object'])}: {progress['stage']}{size}", file=sys.stderr)


def _follow_live(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    from rich.table import Column

    def whole() -> Column:
        return Column(no_wrap=True)

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=24)),
        TextColumn("{task.fields[stage]:<11}", table_column=whole()), BarColumn(10, table_column=whole()),
        DownloadColumn(table_column=whole()), TransferSpeedColumn(table_column=whole()),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}
        for event in events:
            if done := event.get("done"):
                return done  # type: ignore[no-any-return]
            if not (progress := event.get("progress")):
                continue
            name, stage = progress["object"], progress["stage"]
            if name not in tasks:
                tasks[name] = bars.add_task(short(name), total=None, stage=stage)
            total = progress["total"] or None
            offset = (total or 0) if stage in FINAL else progress["offset"]
            bars.update(tasks[name], stage=stage, total=total, completed=offset)
    raise Unavailable("the daemon ended the call before the work was done")


def short(name: str) -> str:
    """A digest by its first twelve digits, whatever stands before it; anything else as it is."""
    _, found, digits = name.rpartition("sha256:")
    return digits[:12] if found else name
