"""``ctr containers``, without checkpoints."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from portside.cli.ctr.command import QUIET, Session, command, each, pairs
from portside.cli.ctr.grammar import Values
from portside.cli.ctr.making import CONTAINER_OPTIONS, make
from portside.cli.ctr.text import WIDE, iso_time, label_text, print_json, print_table
from portside.cli.options import Option
from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Status
from portside.errors import FailedPrecondition, InvalidArgument, NotFound


@command("[FILTER...]", QUIET)
async def list_containers(session: Session, values: Values, words: Sequence[str]) -> None:
    """With image and runtime."""
    containers = await session.services.containers.list(list(words))
    if values["quiet"]:
        for container in containers:
            print(container.id)
        return
    rows = (f"{container.id}\t{container.image or '-'}\t{container.runtime}\t" for container in containers)
    print_table(("CONTAINER\tIMAGE\tRUNTIME\t", *rows), WIDE)


@command("CONTAINER", Option("--spec", help="only the specification"))
async def info(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its record, with the specification decoded."""
    container = await session.services.containers.get(words[0])
    spec = _decoded(container)
    if values["spec"]:
        print_json(spec)
        return
    document = {
        "ID": container.id, "Labels": dict(container.labels) or None, "Image": container.image,
        "Runtime": {"Name": container.runtime, "Options": any_document(container.runtime_options)},
        "SnapshotKey": container.snapshot_key, "Snapshotter": container.snapshotter,
        "CreatedAt": iso_time(container.created_ns), "UpdatedAt": iso_time(container.updated_ns),
        "Extensions": {key: any_document(value) for key, value in sorted(container.extensions.items())},
        "SandboxID": container.sandbox_id,
    }  # fmt: skip
    print_json(document | ({"Spec": spec} if spec is not None else {"Spec": None}))


def _decoded(container: Container) -> Any:
    if container.spec is None or not container.spec.value:
        return None
    try:
        return json.loads(container.spec.value)
    except ValueError as error:
        raise InvalidArgument(f"container {container.id}: its specification is not JSON: {error}") from error


def any_document(message: AnyMessage | None) -> dict[str, str] | None:
    """As Go's JSON has an Any."""
    if message is None:
        return None
    fields = {"type_url": message.type_url, "value": base64.b64encode(message.value).decode()}
    return {key: value for key, value in fields.items() if value}


@command("[IMAGE] CONTAINER [COMMAND] [ARG...]", *CONTAINER_OPTIONS, asks_snapshotters=True)
async def create(session: Session, values: Values, words: Sequence[str]) -> None:
    """Record and snapshot, no task."""
    await make(session, values, words)


@command("CONTAINER [LABEL...]")
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    containers = session.services.containers
    if changes:
        changed = Container(words[0], "", labels=changes)
        found = await containers.update(changed, [f"labels.{key}" for key in changes])
    else:
        found = await containers.get(words[0])
    print(label_text(found.labels, ""))


@command("CONTAINER...", Option("--keep-snapshot", help="leave its root file system"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> int:
    """With their snapshots."""
    return await each(words, lambda id: _delete(session.services, id, bool(values["keep_snapshot"])))


async def _delete(services: Services, id: str, keep_snapshot: bool) -> None:
    container = await services.containers.get(id)
    try:
        process = await services.tasks.get(id)
    except NotFound:
        pass
    else:
        if process.status not in (Status.STOPPED, Status.CREATED):
            raise FailedPrecondition(f"delete container {id}: its task is {process.status.name.lower()}")
        await services.tasks.delete(id)
    if container.snapshot_key and not keep_snapshot:
        try:
            await services.snapshotter(container.snapshotter).remove(container.snapshot_key)
        except NotFound:
            pass
    await services.containers.delete(id)
