"""Exec: one more process in a running container."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from portside.client.image_user import image_user
from portside.client.remove import discard_process
from portside.client.run import Attached, command_failure
from portside.client.spec import capability_sets, console_size, merge_env
from portside.core.anymessage import PROCESS, AnyMessage
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import TaskIO
from portside.errors import FailedPrecondition, InvalidArgument
from portside.linux.capabilities import NAMES as ALL_CAPABILITIES


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """What to run; what is empty is as in the container's first process."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    privileged: bool = False
    console_size: tuple[int, int] = (0, 0)
    """Columns and rows, as in ``RunOptions``."""


async def exec_process(
    services: Services, container: Container, options: ExecOptions, attached: Attached | None = None
) -> str:
    """Add and start a process; its exec id. Without ``attached`` its output is lost.

    NotFound if the container has no task, FailedPrecondition if that does not run; a process that cannot be started
    leaves nothing behind. Who started it deletes it when it has ended (``Tasks.delete``).
    """
    spec = await _process(services, container, options)
    streams = attached or Attached()
    io = TaskIO(streams.stdin, streams.stdout, "" if options.tty else streams.stderr, options.tty)
    exec_id = os.urandom(16).hex()
    await services.tasks.exec(container.id, exec_id, spec, io)
    try:
        await services.tasks.start(container.id, exec_id)
    except BaseException as error:
        await discard_process(services, container.id, exec_id)
        failure = command_failure(error)
        if failure is error:
            raise
        raise failure from error
    return exec_id


async def _process(services: Services, container: Container, options: ExecOptions) -> AnyMessage:
    if not options.args or not options.args[0]:
        raise InvalidArgument("exec: no command")
    process = first_process(container)
    process["args"] = list(options.args)
    process["env"] = merge_env(process.get("env") or [], ["TERM=xterm"] if options.tty else [], options.env)
    process["terminal"] = options.tty
    process.pop("consoleSize", None)
    process |= console_size(options.tty, options.console_size)
    if options.cwd:
        process["cwd"] = options.cwd if options.cwd.startswith("/") else f"/{options.cwd}"
    if options.user:
        mounts = await services.snapshotter(container.snapshotter).mounts(container.snapshot_key)
        user = await image_user(mounts, options.user)
        process["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)}
        process["env"] = [variable for variable in process["env"] if not variable.startswith("HOME=")]
    if options.privileged:
        process["capabilities"] = capability_sets(ALL_CAPABILITIES)
        process["noNewPrivileges"] = False
    return AnyMessage(PROCESS, json.dumps(process, separators=(",", ":")).encode("utf-8", "surrogateescape"))


def first_process(container: Container) -> dict[str, Any]:
    """``process`` of the container's specification, a copy; FailedPrecondition if there is none that can be read."""
    try:
        process = json.loads(container.spec.value)["process"] if container.spec else None
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(f"container {container.id[:12]}: its specification cannot be read") from error
    if not isinstance(process, dict):
        raise FailedPrecondition(f"container {container.id[:12]}: its specification has no process")
    return process
