"""``ctr run``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr import cni
from portside.cli.ctr.command import Session, command
from portside.cli.ctr.grammar import Flag, Values, integer
from portside.cli.ctr.making import CONTAINER_OPTIONS, make
from portside.cli.ctr.tasking import DETACH, STREAMS, run_task
from portside.cli.ctr.text import json_text
from portside.cli.options import Option, UsageError
from portside.client.remove import discard
from portside.core.containers import Container
from portside.core.work import in_thread

_OPTIONS = (
    Option("--rm", help="remove the container when it has ended"),
    *STREAMS,
    DETACH,
    Flag("--cgroup", value="PATH", help="the control group; empty for none"),
    Flag("--platform", value="OS/ARCH", help="the image's variant for that platform"),
    Option("--cni", help="a network as the machine's CNI configuration has it"),
    Option("--sync-fs", help="layers are on disk before they are used; always so"),
    Flag("--dump-config", value="FILE", help="write the specification there"),
    Flag("--uidmap", value="CONTAINER:HOST:SIZE", many=True, help="user ids of a user namespace"),
    Flag("--gidmap", value="CONTAINER:HOST:SIZE", many=True, help="group ids of a user namespace"),
    Option("--remap-labels", help="the snapshotter shifts the owners of files"),
    Option("--privileged-without-host-devices", help="with --privileged: without devices of the machine"),
    Flag("--cpus", value="NUMBER", default=0.0, convert=float, help="processors' time"),
    integer("--cpu-shares", "weight", 1024),
    Flag("--cpuset-cpus", value="LIST", help="processors it may run on, as in 1-2,4"),
    Flag("--cpuset-mems", value="LIST", help="memory nodes it may use"),
    Flag("--rlimit-nofile", value="SOFT[:HARD]", help="most open files"),
)


@command("[IMAGE] CONTAINER [COMMAND] [ARG...]", *_OPTIONS, *CONTAINER_OPTIONS, asks_snapshotters=True)
async def run(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its status, unless detached."""
    if values["rm"] and values["detach"]:
        raise UsageError("--detach and --rm cannot be used together")
    if "dump_config" in values.given and not values["dump_config"]:
        raise UsageError("--dump-config wants the name of a file")
    services = session.services
    configuration = await in_thread(cni.configuration) if values["cni"] else None
    container, mounts = await make(session, values, words)
    network = _Network(session, container, configuration) if configuration else None
    try:
        if values["dump_config"]:
            _dump(container, values["dump_config"])
        return await run_task(services, container, mounts, values, created=network.set_up if network else None)
    finally:
        try:
            if network is not None and not values["detach"]:
                await network.tear_down()
        finally:
            if values["rm"]:
                await discard(services, container)


def _dump(container: Container, path: str) -> None:
    import json

    assert container.spec is not None
    with open(path, "w", encoding="utf-8") as file:
        file.write(json_text(json.loads(container.spec.value), 2))


class _Network:
    """The network of one container, by CNI."""

    def __init__(self, session: Session, container: Container, configuration: cni.Configuration) -> None:
        self._id, self._configuration = f"{session.namespace}-{container.id}", configuration

    async def set_up(self, pid: int) -> None:
        """Connect the task before it starts."""
        await in_thread(cni.set_up, self._configuration, self._id, pid)

    async def tear_down(self) -> None:
        """Disconnect it."""
        await in_thread(cni.tear_down, self._configuration, self._id)
