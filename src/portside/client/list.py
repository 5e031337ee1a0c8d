"""List: containers with the state of their tasks, as ``ps`` shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portside.client.lookup import name_of
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Process, Status

_STATES = {
    Status.CREATED: "created",
    Status.RUNNING: "running",
    Status.PAUSED: "paused",
    Status.PAUSING: "paused",
    Status.STOPPED: "exited",
}


@dataclass(frozen=True, slots=True)
class ContainerSummary:
    """``state`` is created, running, paused, exited or unknown; times are nanoseconds, 0 where there is none."""

    id: str
    name: str
    image: str
    command: str
    created_ns: int
    state: str
    pid: int
    exit_status: int
    exited_ns: int
    labels: Mapping[str, str]


async def list_containers(
    services: Services, *, all: bool = True, filters: Sequence[str] = ()
) -> list[ContainerSummary]:
    """Newest first; without ``all`` only those that run or are paused. ``filters`` are the server's (``id==…``)."""
    containers = await services.containers.list(filters)
    tasks = {process.container_id: process for process in await services.tasks.list()}
    summaries = [summarize(container, tasks.get(container.id)) for container in containers]
    if not all:
        summaries = [summary for summary in summaries if summary.state in ("running", "paused")]
    return sorted(summaries, key=lambda summary: summary.created_ns, reverse=True)


def summarize(container: Container, process: Process | None) -> ContainerSummary:
    """One row; a container without a task has not been started, or its task was deleted."""
    return ContainerSummary(
        id=container.id,
        name=name_of(container),
        image=container.image,
        command=command_of(container),
        created_ns=container.created_ns,
        state=_STATES.get(process.status, "unknown") if process else "created",
        pid=process.pid if process and process.status in (Status.RUNNING, Status.PAUSED, Status.PAUSING) else 0,
        exit_status=process.exit_status if process else 0,
        exited_ns=process.exited_ns if process else 0,
        labels=container.labels,
    )


def command_of(container: Container) -> str:
    """The arguments of the first process with blanks between; empty where the specification cannot be read."""
    try:
        args = json.loads(container.spec.value)["process"]["args"] if container.spec else []
        return " ".join(str(argument) for argument in args)
    except (ValueError, KeyError, TypeError):
        return ""
