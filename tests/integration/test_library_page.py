"""The examples of docs/library.md, run in order; only references and directories are replaced."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import portside
from tests.support.peers import Daemon

pytestmark = pytest.mark.root
PAGE = Path(__file__).parents[2] / "docs" / "library.md"


async def test_examples(daemon: Daemon, busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_ADDRESS", str(daemon.socket))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 5
    known: dict[str, object] = {}
    async with portside.connect(namespace="page") as c:
        for block in blocks:
            block = block.replace("docker.io/library/busybox:latest", busybox)
            block = block.replace("/var/lib/sandboxes", str(tmp_path / "root")).replace(
                "/tmp/mine.tar", f"{tmp_path}/a"
            )
            await run(block, known | {"c": c}, known)
        assert await c.containers() == []


async def run(block: str, names: dict[str, object], keep: dict[str, object]) -> None:
    """One block as the body of a coroutine; ``image`` is what later blocks go on with."""
    source = (
        "import asyncio, portside\nasync def main(c, image):\n"
        + textwrap.indent(block, "    ")
        + "\n    return image\n"
    )
    space: dict[str, object] = {}
    exec(compile(source, str(PAGE), "exec"), space)
    keep["image"] = await space["main"](names["c"], names.get("image"))  # type: ignore[operator]
