"""Answers in which a client would notice a difference from containerd, call by call, over the wire."""

from __future__ import annotations

import pytest

from portside.errors import NotFound
from portside.remote.backend import RemoteBackend
from tests.support.peers import Daemon

pytestmark = pytest.mark.root


async def test_a_process_without_terminal_does_not_mind_a_size(daemon: Daemon, busybox: str) -> None:
    """``ctr`` sends one to a process that may have ended already, and shows its user any error."""
    daemon.ctr("images", "pull", "--plain-http", busybox)
    daemon.ctr("run", "-d", "--null-io", busybox, "plain", "sleep", "1000")
    async with await RemoteBackend.connect(str(daemon.socket)) as backend:
        tasks = backend.bind("default").tasks
        await tasks.resize("plain", 80, 24)
        await tasks.kill("plain", 9)
        await tasks.wait("plain")
        await tasks.resize("plain", 80, 24)
        await tasks.delete("plain")
        with pytest.raises(NotFound):
            await tasks.resize("plain", 80, 24)
    daemon.ctr("containers", "rm", "plain")
