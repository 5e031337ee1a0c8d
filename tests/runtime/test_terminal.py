"""Terminals of a first process."""

from __future__ import annotations

import os
from typing import Any

from portside.runtime.process import Stdio
from tests.runtime.box import Box, finish, read_console


def run(box: Box, script: str, stdio: Stdio, **fields: Any) -> str:
    def change(spec: dict[str, Any]) -> None:
        spec["process"].update(terminal=True, **fields)

    with box.created(box.spec("/bin/sh", "-c", script, change=change), stdio=stdio) as container:
        assert container.init.console >= 0
        container.start()
        text = read_console(container.init.console)
        finish(container.init)
        return text


def test_it_is_the_controlling_terminal_and_the_console(box: Box) -> None:
    script = "tty; echo x > /dev/tty; stat -c %t /dev/console; stat -c %d:%i /dev/console /dev/pts/0; ls /dev/pts"
    words = run(box, script, Stdio(terminal=True)).split()
    assert words[:3] == ["/dev/pts/0", "x", "88"]
    assert words[3] == words[4]
    assert words[5:] == ["0", "ptmx"]


def test_its_size_comes_from_the_caller_or_the_spec(box: Box) -> None:
    assert run(box, "stty size", Stdio(terminal=True, width=100, height=40)).strip() == "40 100"
    size = {"width": 60, "height": 20}
    assert run(box, "stty size", Stdio(terminal=True), consoleSize=size).strip() == "20 60"


def test_it_belongs_to_the_user(box: Box) -> None:
    user = {"uid": 1000, "gid": 1000}
    assert run(box, "stat -c %u:%g /dev/pts/0; echo y > /dev/tty", Stdio(terminal=True), user=user).split() == [
        "1000:5",
        "y",
    ]


def test_input_and_interrupt(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["terminal"] = True

    script = "trap 'echo caught; exit 5' INT; echo ready; read line; echo got $line; while :; do sleep 0.02; done"
    spec = box.spec("/bin/sh", "-c", script, change=change)
    with box.created(spec, stdio=Stdio(terminal=True)) as container:
        console = container.init.console
        container.start()
        text = b""
        while b"ready" not in text:
            text += os.read(console, 1000)
        os.write(console, b"hello\n")
        while b"got hello" not in text:
            text += os.read(console, 1000)
        os.write(console, b"\x03")
        assert "caught" in read_console(console)
        assert finish(container.init) == 5
