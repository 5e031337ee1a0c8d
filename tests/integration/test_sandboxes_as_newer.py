"""Sandboxes, and what services tell of plugins, asked of containerd 2.1 and of our daemon: both answer alike."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import stacks
from portside.core.anymessage import AnyMessage
from portside.core.sandboxes import Sandbox
from portside.engine.runtime_info import INFO, REQUEST
from portside.errors import PortsideError
from portside.remote.backend import RemoteBackend
from portside.wire.codec import decode, encode
from portside.wire.tables import containerd_types
from tests.contracts.sandboxes import SandboxStoreContract
from tests.support.newer import newer_containerd, newer_ctr
from tests.support.peers import Daemon, need_root

pytestmark = pytest.mark.root

RUNTIME = "io.containerd.runtime.v2"
_CRI = '"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",'


@pytest.fixture(scope="module")
def newer() -> Iterator[Path]:
    """With the parts of CRI, without which it has no sandbox controllers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "_CONFIG", stacks._CONFIG.replace(_CRI, ""))
        with newer_containerd() as socket:
            yield socket


@pytest.fixture(scope="module")
def ours() -> Iterator[Daemon]:
    need_root()
    with tempfile.TemporaryDirectory(prefix="portside") as place:
        daemon = Daemon(Path(place))
        daemon.start()
        yield daemon
        daemon.stop()


class TestStoreOfNewer(SandboxStoreContract):
    @pytest.fixture
    async def backend(self, newer: Path) -> AsyncIterator[RemoteBackend]:
        async with await RemoteBackend.connect(str(newer)) as backend:
            yield backend


class TestStoreOfOurs(SandboxStoreContract):
    @pytest.fixture
    async def backend(self, ours: Daemon) -> AsyncIterator[RemoteBackend]:
        async with await RemoteBackend.connect(str(ours.socket)) as backend:
            yield backend


def request(runtime: str) -> AnyMessage:
    return AnyMessage(REQUEST, encode(containerd_types.RuntimeRequest, {"runtime_path": runtime}))


def calls(backend: RemoteBackend) -> dict[str, Any]:
    """Calls whose answers must be alike, by what they ask."""
    services, introspection = backend.bind("alike"), backend.introspection
    shim, none, nameless = (services.sandbox_controller(name) for name in ("shim", "none", ""))
    return {
        "status of no controller": none.status("x"),
        "status of a controller without a name": nameless.status("x"),
        "create by no controller": none.create(Sandbox("x")),
        "status of nothing": shim.status("x"),
        "wait for nothing": shim.wait("x"),
        "shut down nothing": shim.shutdown("x"),
        "metrics of nothing": shim.metrics("x"),
        "stop nothing": shim.stop("x"),
        "update nothing": shim.update("x", Sandbox("x")),
        "create without an id": shim.create(Sandbox("", "io.containerd.runc.v2")),
        "create with an odd id": shim.create(Sandbox("a/b", "io.containerd.runc.v2")),
        "a plugin that is not there": introspection.plugin_info(RUNTIME, "none"),
        "a plugin without a name": introspection.plugin_info("", ""),
        "the plugin of runtimes": introspection.plugin_info(RUNTIME, "task"),
        "a plugin that tells nothing": introspection.plugin_info(
            "io.containerd.snapshotter.v1", "overlayfs", request("io.containerd.runc.v2")
        ),
        "the runtime": introspection.plugin_info(RUNTIME, "task", request("io.containerd.runc.v2")),
    }


async def outcomes(socket: Path) -> dict[str, str]:
    """For each call ``ok`` or the kind of error."""
    found = {}
    async with await RemoteBackend.connect(str(socket)) as backend:
        for name, call in calls(backend).items():
            try:
                async with asyncio.timeout(20):
                    await call
                found[name] = "ok"
            except PortsideError as error:
                found[name] = type(error).__name__
    return found


async def test_both_answer_alike(newer: Path, ours: Daemon) -> None:
    assert await outcomes(ours.socket) == await outcomes(newer)


async def test_a_status_of_nothing_and_a_runtime_look_alike(newer: Path, ours: Daemon) -> None:
    for socket in (newer, ours.socket):
        async with await RemoteBackend.connect(str(socket)) as backend:
            status = await backend.bind("alike").sandbox_controller("shim").status("x")
            assert (status.id, status.pid, status.state, status.exited_ns > 0) == ("x", 0, "", True)
            info = await backend.introspection.plugin_info(RUNTIME, "task", request("io.containerd.runc.v2"))
            assert info.plugin.id == "task" and info.extra is not None and info.extra.type_name == INFO
            told = decode(containerd_types.RuntimeInfo, info.extra.value)
            assert told["name"] == "io.containerd.runc.v2" and told["features"]["type_url"].endswith("/Features")


def test_its_ctr_against_us(ours: Daemon) -> None:
    told = newer_ctr(ours.socket, "plugins", "inspect-runtime").stdout
    assert '"io.containerd.runc.v2"' in told and "ociVersionMax" in told
    assert "deprecation" not in newer_ctr(ours.socket, "deprecations", "list").stdout.lower()
    assert newer_ctr(ours.socket, "sandboxes", "list").stdout.startswith("ID")
