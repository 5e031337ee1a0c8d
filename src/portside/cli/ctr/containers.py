"""``ctr containers``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from portside.cli.ctr.command import QUIET, Session, Values, command, label_text, pairs
from portside.cli.ctr.making import OPTIONS, make
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.cli.times import rfc3339
from portside.core.containers import Container
from portside.core.tasks import Status
from portside.errors import FailedPrecondition, NotFound


@command("list", "[FILTER...]", "list containers", QUIET, aliases=("ls",))
async def list_containers(session: Session, values: Values, words: Sequence[str]) -> None:
    """With image and runtime."""
    containers = await session.services.containers.list(list(words))
    if values["quiet"]:
        for container in containers:
            print(container.id)
        return
    print_table(("CONTAINER", "IMAGE", "RUNTIME"), [(c.id, c.image or "-", c.runtime) for c in containers])


_SPEC = Option("--spec", help="only the specification")


@command("info", "CONTAINER", "show a container as JSON", _SPEC)
async def info(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its record, with the specification decoded."""
    container = await session.services.containers.get(words[0])
    spec = json.loads(container.spec.value) if container.spec else None
    print(json.dumps(spec if values["spec"] else _document(container, spec), indent=4))


def _document(container: Container, spec: Any) -> dict[str, Any]:
    return {
        "ID": container.id, "Labels": dict(container.labels), "Image": container.image,
        "Runtime": {"Name": container.runtime}, "SnapshotKey": container.snapshot_key,
        "Snapshotter": container.snapshotter, "CreatedAt": rfc3339(container.created_ns),
        "UpdatedAt": rfc3339(container.updated_ns), "SandboxID": container.sandbox_id, "Spec": spec,
    }  # fmt: skip


@command("create", "IMAGE CONTAINER [COMMAND] [ARG...]", "create a container", *OPTIONS)
async def create(session: Session, values: Values, words: Sequence[str]) -> None:
    """Record and snapshot, no task."""
    await make(session, values, words[0], words[1], words[2:])


@command("label", "CONTAINER LABEL...", "set or, with an empty value, clear labels")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    updated = await session.services.containers.update(
        Container(words[0], "", labels=changes), [f"labels.{key}" for key in changes]
    )
    print(label_text(updated.labels))


_KEEP = Option("--keep-snapshot", help="leave its root file system")


@command("delete", "CONTAINER...", "delete containers without a running task", _KEEP, aliases=("del", "remove", "rm"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """With their snapshots."""
    services = session.services
    for id in words:
        container = await services.containers.get(id)
        try:
            process = await services.tasks.get(id)
        except NotFound:
            pass
        else:
            if process.status not in (Status.STOPPED, Status.CREATED):
                raise FailedPrecondition(f"delete container {id}: its task is {process.status.name.lower()}")
            await services.tasks.delete(id)
        await services.containers.delete(id)
        if container.snapshot_key and not values["keep_snapshot"]:
            try:
                await services.snapshotter(container.snapshotter).remove(container.snapshot_key)
            except NotFound:
                pass


COMMANDS = (list_containers, info, create, label, delete)
