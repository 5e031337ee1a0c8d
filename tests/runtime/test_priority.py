"""Scheduling and disk priority."""

from __future__ import annotations

import re
from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.runtime.priority import Priority
from tests.runtime.box import Box


def test_both_hold_for_the_first_process_and_for_exec(box: Box) -> None:
    fields = {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 7},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
    }
    look = "cut -d' ' -f19,41 /proc/self/stat; ionice -p 1 2>/dev/null || busybox ionice -p 1"
    result = box.sh(look, lambda spec: spec["process"].update(fields))
    assert result.lines[0] == "7 3"
    assert re.search("idle", result.text)
    with box.running() as container:
        assert box.exec(container, "/bin/cut", "-d ", "-f19,41", "/proc/self/stat", **fields).text == "7 3\n"


@pytest.mark.parametrize(
    ("process", "field"),
    [
        ({"scheduler": {"nice": 1}}, "scheduler.policy"),
        ({"scheduler": {"policy": "SCHED_FUN"}}, "scheduler.policy"),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, "scheduler.nice"),
        ({"scheduler": {"policy": "SCHED_OTHER", "flags": ["X"]}}, "scheduler.flags"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, "ioPriority.priority"),
        ({"ioPriority": {"priority": 1}}, "ioPriority.class"),
        ({"ioPriority": 3}, "ioPriority"),
    ],
)
def test_wrong_values(process: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"process.{field}"):
        Priority(process, "process")
