"""``ctr tasks`` that stay with a process: ``start``, ``exec`` and ``attach``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

from portside.cli.ctr.command import Session, command
from portside.cli.ctr.foreground import attached, in_foreground, unseen
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.tasking import DETACH, STREAMS, run_task, streams
from portside.cli.options import Option, UsageError
from portside.client.exec import first_process
from portside.client.image_user import image_user
from portside.client.remove import discard_process, quietly
from portside.core.anymessage import PROCESS, AnyMessage
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.services import Services
from portside.core.tasks import TaskIO


@command(
    "CONTAINER",
    Option("--no-pivot", help="without pivot_root, for a root that is a ramdisk"),
    *STREAMS,
    Flag("--pid-file", value="FILE", help="write the task's pid there"),
    DETACH,
)
async def start(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its status, unless detached."""
    container = await session.services.containers.get(words[0])
    mounts = await mounts_of(session.services, container)
    return await run_task(session.services, container, mounts, values)


async def mounts_of(services: Services, container: Container) -> tuple[Mount, ...]:
    """How to see the container's root; nothing for one without a snapshot."""
    if not container.snapshot_key:
        return ()
    return await services.snapshotter(container.snapshotter).mounts(container.snapshot_key)


@command(
    "CONTAINER COMMAND [ARG...]",
    Flag("--exec-id", value="ID", help="a name for the process; default: a random one"),
    Option("-t", "--tty", help="with a terminal"),
    Flag("--cwd", value="DIR", help="working directory"),
    Flag("--user", value="USER[:GROUP]", help="who it runs as"),
    *STREAMS[1:],
    DETACH,
)
async def exec_(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its status, unless detached."""
    if values["log_uri"] and values["fifo_dir"]:
        raise UsageError("--log-uri and --fifo-dir exclude each other")
    services = session.services
    container = await services.containers.get(words[0])
    process = await _process(services, container, values, words[1:])
    exec_id = values["exec_id"] or os.urandom(8).hex()
    spec = AnyMessage(PROCESS, json.dumps(process).encode("utf-8", "surrogateescape"))

    async def begin(io: TaskIO) -> None:
        await services.tasks.exec(container.id, exec_id, spec, io)
        try:
            await services.tasks.start(container.id, exec_id)
        except BaseException:
            await discard_process(services, container.id, exec_id)
            raise

    elsewhere = streams(values, values["tty"])
    try:
        if elsewhere is not None:
            await begin(elsewhere)
            if values["detach"]:
                return 0
            await unseen(services, container.id, exec_id)
        else:
            await in_foreground(services, container.id, exec_id, values["tty"], begin, values["fifo_dir"])
    except BrokenPipeError:
        await quietly(services.tasks.kill(container.id, signal.SIGPIPE, exec_id))  # as it would have had in a pipe
        raise
    return (await services.tasks.delete(container.id, exec_id)).status


async def _process(services: Services, container: Container, values: Values, args: Sequence[str]) -> dict[str, Any]:
    process = first_process(container) | {"args": list(args), "terminal": values["tty"]}
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    if values["user"]:
        user = await image_user(await mounts_of(services, container), values["user"])
        process["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)}
    return process


@command("CONTAINER")
async def attach(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its streams are ours until it ends; then it is deleted. Its status."""
    services = session.services
    await services.containers.get(words[0])
    task = await services.tasks.get(words[0])
    await attached(services, words[0], task.io)
    return (await services.tasks.delete(words[0])).status
