"""What the restart monitor makes of labels and states; the rest is in tests/integration/test_restart_policies.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from portside.client.restart import RestartPolicy, hold, release, restart_labels, set_policy
from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.tasks import Process, Status, TaskIO
from portside.engine.engine import EngineConfig, LocalBackend
from portside.engine.restart import RestartConfig, RestartMonitor, Verdict, verdict
from portside.errors import InvalidArgument

PREFIX = "containerd.io/restart."


def process(status: Status, exit_status: int = 0) -> Process:
    return Process("c", "", 1, status, TaskIO(), exit_status)


RUNS, PAUSED, CREATED = process(Status.RUNNING), process(Status.PAUSED), process(Status.CREATED)
DONE, FAILED, NONE = process(Status.STOPPED), process(Status.STOPPED, 1), None
LEAVE, WATCH, START, END = Verdict.LEAVE, Verdict.WATCH, Verdict.START, Verdict.END


@pytest.mark.parametrize(
    ("labels", "state", "wanted"),
    [
        ({}, DONE, LEAVE),
        ({"status": "created", "policy": "always"}, DONE, LEAVE),
        ({"status": "created", "policy": "always"}, RUNS, LEAVE),
        ({"status": "running"}, DONE, START),
        ({"status": "running"}, NONE, START),
        ({"status": "running"}, CREATED, START),
        ({"status": "running", "policy": "always"}, RUNS, WATCH),
        ({"status": "running", "policy": "always"}, PAUSED, WATCH),
        ({"status": "running", "policy": "always"}, DONE, START),
        ({"status": "running", "policy": "always", "explicitly-stopped": "true"}, DONE, LEAVE),
        ({"status": "running", "policy": "always", "explicitly-stopped": "false"}, DONE, START),
        ({"status": "running", "policy": "no"}, FAILED, LEAVE),
        ({"status": "running", "policy": "odd"}, FAILED, LEAVE),
        ({"status": "running", "policy": "on-failure"}, FAILED, START),
        ({"status": "running", "policy": "on-failure"}, DONE, LEAVE),
        ({"status": "running", "policy": "on-failure"}, NONE, LEAVE),
        ({"status": "running", "policy": "on-failure", "count": "1000"}, FAILED, START),
        ({"status": "running", "policy": "on-failure:2"}, FAILED, START),
        ({"status": "running", "policy": "on-failure:2", "count": "1"}, FAILED, START),
        ({"status": "running", "policy": "on-failure:2", "count": "2"}, FAILED, LEAVE),
        ({"status": "running", "policy": "on-failure:2", "explicitly-stopped": "true"}, FAILED, LEAVE),
        ({"status": "running", "policy": "unless-stopped"}, DONE, START),
        ({"status": "running", "policy": "unless-stopped", "explicitly-stopped": "true"}, DONE, LEAVE),
        ({"status": "stopped", "policy": "always"}, RUNS, END),
        ({"status": "stopped", "policy": "always"}, PAUSED, END),
        ({"status": "stopped", "policy": "always"}, DONE, LEAVE),
        ({"status": "stopped", "policy": "always"}, NONE, LEAVE),
    ],
)
def test_verdicts(labels: dict[str, str], state: Process | None, wanted: Verdict) -> None:
    assert verdict({PREFIX + key: value for key, value in labels.items()}, state) is wanted


def test_an_interval_of_nothing() -> None:
    metadata: Any = None
    with pytest.raises(InvalidArgument, match="interval"):
        RestartMonitor(metadata, metadata, RestartConfig(interval=-1.0))


async def test_labels_on_a_record(tmp_path: Any) -> None:
    backend = await LocalBackend.open(EngineConfig(tmp_path / "root", tmp_path / "state"))
    await backend.namespaces.create("ns")
    services = backend.bind("ns")
    labels = {"mine": "1", **restart_labels(RestartPolicy.parse("on-failure:3"), "log:///x")}
    spec = AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"{}")
    await services.containers.create(Container("c", "io.containerd.runc.v2", spec, labels=labels))

    async def now() -> Container:
        return await services.containers.get("c")

    def kept(container: Container) -> dict[str, str]:
        return {key.removeprefix(PREFIX): value for key, value in container.labels.items() if key != "mine"}

    assert backend.restarts is not None and backend.restarts.watched == 1
    await release(services, await now())
    assert kept(await now()) == {"status": "running", "policy": "on-failure:3", "loguri": "log:///x"}
    await hold(services, await now())
    assert kept(await now())["status"] == "created" and kept(await now())["explicitly-stopped"] == "true"
    await set_policy(services, await now(), RestartPolicy.parse("always"))
    assert kept(await now()) == {
        "status": "created", "policy": "always", "loguri": "log:///x", "explicitly-stopped": "true",
    }  # fmt: skip
    await set_policy(services, await now(), RestartPolicy())
    assert dict((await now()).labels) == {"mine": "1"}
    await hold(services, await now())
    await release(services, await now())
    assert dict((await now()).labels) == {"mine": "1"}
    await set_policy(services, await now(), RestartPolicy.parse("unless-stopped"), "log:///y")
    assert kept(await now()) == {"status": "running", "policy": "unless-stopped", "loguri": "log:///y"}
    await services.containers.delete("c")
    async with asyncio.timeout(20):
        while backend.restarts.watched:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await backend.close()


async def test_an_engine_without_it(tmp_path: Any) -> None:
    uri = "io.containerd.monitor.container.v1.restart"
    backend = await LocalBackend.open(EngineConfig(tmp_path / "root", tmp_path / "state", disabled_plugins=(uri,)))
    assert backend.restarts is None
    await backend.close()
    backend = await LocalBackend.open(EngineConfig(tmp_path / "root", tmp_path / "state"))
    assert backend.restarts is not None
    (shown,) = [plugin for plugin in backend.plugins if plugin.type == "io.containerd.monitor.container.v1"]
    assert (shown.id, shown.capabilities) == ("restart", ("no", "always", "on-failure", "unless-stopped"))
    await backend.close()
