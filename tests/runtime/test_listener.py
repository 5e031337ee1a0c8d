"""Seccomp filters that ask somebody."""

from __future__ import annotations

import array
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.runtime import listener as listener_module
from portside.runtime.failure import RuntimeFailure
from portside.runtime.listener import Listener
from tests.runtime.box import Box, Change, finish


def notifying(path: str, *names: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "about it",
            "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
        }

    return change


def take(server: socket.socket) -> tuple[dict[str, Any], str]:
    """The message of one connection, and what kind of descriptor came with it."""
    connection, _ = server.accept()
    with connection:
        data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
    fd = array.array("i", ancillary[0][2])[0]
    kind = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return json.loads(data), kind


def test_the_descriptor_and_the_state_reach_the_agent(box: Box, tmp_path: Path) -> None:
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(10)
        with box.running(notifying(path, "swapon")) as container:
            message, kind = take(server)
            assert kind == "anon_inode:seccomp notify"
            assert message["fds"] == ["seccompFd"] and message["metadata"] == "about it"
            assert message["pid"] == container.init.pid
            assert message["state"]["id"] == container.id and message["state"]["status"] == "running"
            assert box.exec(container, "/bin/true").code == 0
            assert take(server)[0]["state"]["pid"] == container.init.pid


def test_without_an_agent_nothing_runs(box: Box, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"hand the seccomp listener over: .*no such file"):
        box.run(box.spec("/bin/sleep", "1000", change=notifying(str(tmp_path / "nobody"), "swapon")))
    with box.created(box.spec("/bin/sleep", "1000", change=notifying(str(tmp_path / "nobody"), "swapon"))) as container:
        with pytest.raises(RuntimeFailure):
            container.start()
        assert finish(container.init) != 0


def test_an_agent_that_accepts_nobody_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "PATIENCE", 0.05)
    path = str(tmp_path / "agent")
    profile = {"listenerPath": path, "syscalls": []}
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)
        with pytest.raises(RuntimeFailure, match="hand the seccomp listener over"):
            Listener(profile).hand_over(0, 1, b'{"ociVersion": "1.2.0"}')


@pytest.mark.parametrize(
    "profile",
    [
        {"syscalls": []},
        {"listenerPath": "/x", "defaultAction": "SCMP_ACT_NOTIFY"},
        {"listenerPath": "/x", "syscalls": [{"names": ["a", "execve"], "action": "SCMP_ACT_NOTIFY"}]},
        {"listenerPath": 7},
    ],
)
def test_profiles_that_cannot_work(profile: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.seccomp"):
        Listener(profile)
