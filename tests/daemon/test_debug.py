"""Dumps: what waits where, and that a loop which is stuck still shows its stack."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

from portside.daemon.debug import stacks_text, tasks_text

STUCK = """
import asyncio, sys, time
from portside.daemon.debug import Debug

def deaf_for_a_while():
    print("stuck", flush=True)
    time.sleep(60)

async def main():
    Debug(None, None).listen_to_signal()
    deaf_for_a_while()

asyncio.run(main())
"""


async def innermost(password: str) -> None:
    await asyncio.Event().wait()


async def items() -> AsyncIterator[int]:
    await innermost("hunter2")
    yield 1


async def outermost() -> None:
    async for _ in items():
        pass


async def test_where_tasks_wait() -> None:
    waiting = [asyncio.create_task(outermost(), name=f"waiter {number}") for number in range(3)]
    await asyncio.sleep(0)
    text = tasks_text()
    (paragraph,) = [found for found in text.split("\n\n") if "waiter 0" in found]
    assert paragraph.startswith("3 tasks: waiter 0, waiter 1, waiter 2\n")
    places = [line.rpartition(" ")[2] for line in paragraph.splitlines()[1:]]
    assert places[:3] == ["outermost", "items", "innermost"]
    assert "hunter2" not in text
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_where_threads_are() -> None:
    text = stacks_text()
    assert "thread MainThread" in text
    assert "in test_where_threads_are" in text


def test_a_loop_that_is_stuck() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGUSR1)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "in main" in line:
            break
    assert any("in deaf_for_a_while" in line for line in lines)
    process.kill()
    process.communicate()
