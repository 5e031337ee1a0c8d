"""The README's example, run as it stands there, with a daemon and without one.

Only the image's reference is replaced; the image has a ``python`` that does this one sum, so that the test needs no
real one and no network.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

from tests.support import images
from tests.support.peers import Daemon

pytestmark = pytest.mark.root
README = Path(__file__).parents[2] / "README.md"
REFERENCE = "docker.io/library/python:3.12-slim"


@pytest.fixture(scope="module")
def python(registry: str) -> str:
    if not images.BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    files = images.busybox_files()
    files["bin/python"] = b'#!/bin/sh\n[ "$1 $2" = "-c print(6*7)" ] && echo $((6*7))\n'
    return images.push(registry, "library/python", "3.12-slim", images.make_image([images.tar_layer(files)]))


def example() -> str:
    """The first block of Python that opens a client."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    found = [block for block in blocks if "portside.connect" in block]
    assert found, "the README has lost its example"
    return found[0]


def run(source: str, python: str) -> str:
    """What the example prints."""
    assert REFERENCE in source
    printed = io.StringIO()
    code = compile(source.replace(REFERENCE, python), str(README), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "__main__"})
    return printed.getvalue()


def test_with_a_daemon(daemon: Daemon, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_ADDRESS", str(daemon.socket))
    assert run(example(), python) == "b'42\\n'\n"
    assert daemon.portside("ps", "-aq").stdout == ""


def test_without_one(python: str, tmp_path: Path) -> None:
    engine = f"portside.Engine(root={str(tmp_path / 'root')!r})"
    source, count = re.subn(r"portside\.connect\(\)", engine, example())
    assert count == 1
    before = len(os.listdir("/proc/self/fd"))
    assert run(source, python) == "b'42\\n'\n"
    assert len(os.listdir("/proc/self/fd")) <= before + 3, "descriptors stay open"
