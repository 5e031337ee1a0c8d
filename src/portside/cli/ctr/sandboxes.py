"""``ctr sandboxes``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from portside.cli.ctr.command import Session, command, complain, each
from portside.cli.ctr.containers import any_document
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.runtime import RUNTIME
from portside.cli.ctr.spec import json_object
from portside.cli.ctr.text import iso_time, plain_time, print_json, print_table
from portside.cli.options import Option
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.sandboxes import Sandbox
from portside.errors import NotFound, PortsideError

SANDBOXER = "shim"
"""The controller for sandboxes that name none: the runtime's own shim."""


@command("FILE ID", Flag("--runtime", value="NAME", default=RUNTIME, help="the runtime"))
async def run(session: Session, values: Values, words: Sequence[str]) -> None:
    """The file has its specification as JSON. Prints the id."""
    path, id = words
    services = session.services
    value = AnyMessage(SPEC, json.dumps(json_object(path)).encode())
    sandbox = await services.sandboxes.create(Sandbox(id, values["runtime"], spec=value, sandboxer=SANDBOXER))
    controller = services.sandbox_controller(sandbox.sandboxer or SANDBOXER)
    try:
        await controller.create(sandbox)
        await controller.start(id)
    except BaseException:
        await services.sandboxes.delete(id)
        raise
    print(id)


@command("", Flag("--filters", value="FILTER", many=True, help="only those that match"))
async def list_sandboxes(session: Session, values: Values, words: Sequence[str]) -> None:
    """With creation time and runtime."""
    found = await session.services.sandboxes.list(values["filters"])
    rows = (f"{sandbox.id}\t{plain_time(sandbox.created_ns)}\t{sandbox.runtime}\t" for sandbox in found)
    print_table(("ID\tCREATED\tRUNTIME\t", *rows))


@command("ID...", Option("-f", "--force", help="also if it cannot be stopped"))
async def remove(session: Session, values: Values, words: Sequence[str]) -> None:
    """Stop, shut down, and remove the record. What fails is told; the status is 0 all the same, as ctr's."""
    services = session.services

    async def one(id: str) -> None:
        sandbox = await services.sandboxes.get(id)
        controller = services.sandbox_controller(sandbox.sandboxer or SANDBOXER)
        try:
            await controller.stop(id)
        except NotFound:
            pass
        except PortsideError as error:
            if not values["force"]:
                raise
            complain(f"sandbox {id}: {error}")
        try:
            await controller.shutdown(id)
        except NotFound:
            pass
        await services.sandboxes.delete(id)

    await each(words, one)


@command("ID")
async def info(session: Session, values: Values, words: Sequence[str]) -> None:
    """Its record."""
    found = await session.services.sandboxes.get(words[0])
    print_json(
        {
            "ID": found.id, "Labels": dict(found.labels) or None,
            "Runtime": {"Name": found.runtime, "Options": any_document(found.runtime_options)},
            "Spec": any_document(found.spec), "Sandboxer": found.sandboxer,
            "CreatedAt": iso_time(found.created_ns), "UpdatedAt": iso_time(found.updated_ns),
            "Extensions": {key: any_document(value) for key, value in sorted(found.extensions.items())} or None,
        }
    )  # fmt: skip
