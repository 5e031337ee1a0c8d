"""``ctr tasks``."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import Sequence
from dataclasses import asdict

from portside.cli.ctr.command import QUIET, Session, Values, command
from portside.cli.ctr.foreground import in_foreground
from portside.cli.options import Option
from portside.cli.table import print_table
from portside.client.exec import first_process
from portside.client.remove import quietly
from portside.client.signals import parse_signal
from portside.client.stats import decode
from portside.core.anymessage import PROCESS, AnyMessage
from portside.core.tasks import Status, TaskIO
from portside.errors import NotFound


@command("list", "", "list tasks", QUIET, aliases=("ls",))
async def list_tasks(session: Session, values: Values, words: Sequence[str]) -> None:
    """With pid and status."""
    tasks = await session.services.tasks.list()
    if values["quiet"]:
        for task in tasks:
            print(task.container_id)
        return
    print_table(("TASK", "PID", "STATUS"), [(t.container_id, str(t.pid), t.status.name) for t in tasks])


@command("ps", "CONTAINER", "list the processes of a task")
async def ps(session: Session, values: Values, words: Sequence[str]) -> None:
    """By pid."""
    infos = await session.services.tasks.pids(words[0])
    print_table(("PID", "INFO"), [(str(info.pid), "exec" if info.info else "-") for info in infos])


_SIGNAL = Option("-s", "--signal", value="SIGNAL", help="a name or a number", default="SIGTERM")
_EXEC = Option("--exec-id", value="ID", help="an exec instead of the first process")
_ALL = Option("-a", "--all", help="all processes")


@command("kill", "CONTAINER", "send a signal", _SIGNAL, _EXEC, _ALL)
async def kill(session: Session, values: Values, words: Sequence[str]) -> None:
    """To the first process, to an exec, or to all."""
    await session.services.tasks.kill(words[0], parse_signal(values["signal"]), values["exec_id"], values["all"])


@command("pause", "CONTAINER", "freeze a task")
async def pause(session: Session, values: Values, words: Sequence[str]) -> None:
    """All its processes."""
    await session.services.tasks.pause(words[0])


@command("resume", "CONTAINER", "thaw a task")
async def resume(session: Session, values: Values, words: Sequence[str]) -> None:
    """All its processes."""
    await session.services.tasks.resume(words[0])


_FORCE = Option("-f", "--force", help="kill it first")


@command("delete", "CONTAINER...", "delete tasks that have ended", _FORCE, _EXEC, aliases=("del", "remove", "rm"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> int:
    """The status of the last one's process."""
    tasks = session.services.tasks
    status = 0
    for id in words:
        if values["force"] and (await tasks.get(id, values["exec_id"])).status is not Status.STOPPED:
            try:
                await tasks.kill(id, parse_signal("KILL"), values["exec_id"], not values["exec_id"])
                await asyncio.wait_for(tasks.wait(id, values["exec_id"]), 10)
            except NotFound:
                pass
        status = (await tasks.delete(id, values["exec_id"])).status
    return status


_FORMAT = Option("--format", value="FORMAT", help="table or json", default="table")


@command("metrics", "CONTAINER", "show what a task uses", _FORMAT, aliases=("metric",))
async def metrics(session: Session, values: Values, words: Sequence[str]) -> None:
    """The figures of its cgroup that every version has."""
    found = await session.services.tasks.metrics([f"id=={words[0]}"])
    if not found:
        raise NotFound(f"task {words[0]}: no metrics")
    figures = decode(found[0])
    if figures is None:
        raise NotFound(f"task {words[0]}: metrics of an unknown kind, {found[0].data.type_name}")
    fields = asdict(figures)
    if values["format"] == "json":
        print(json.dumps(fields))
    else:
        print_table(("METRIC", "VALUE"), [(name, str(value)) for name, value in fields.items()])


_DETACH = Option("-d", "--detach", help="do not wait for it")


@command("start", "CONTAINER", "start the task of a container", _DETACH)
async def start(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its status, unless detached."""
    services = session.services
    container = await services.containers.get(words[0])
    mounts = await services.snapshotter(container.snapshotter).mounts(container.snapshot_key)
    terminal = bool(first_process(container).get("terminal"))

    async def begin(io: TaskIO) -> None:
        await services.tasks.create(container.id, mounts, io, options=container.runtime_options)
        await services.tasks.start(container.id)

    if values["detach"]:
        await begin(TaskIO(terminal=terminal))
        return 0
    ended = await in_foreground(services, container.id, "", terminal, begin)
    await services.tasks.delete(container.id)
    return ended.status


_EXEC_OPTIONS = (
    Option("--exec-id", value="ID", help="a name for the process"),
    Option("-t", "--tty", help="with a terminal"),
    Option("--cwd", value="DIR", help="working directory"),
    Option("--user", value="UID[:GID]", help="who it runs as"),
    _DETACH,
)


@command("exec", "CONTAINER COMMAND [ARG...]", "run a further process in a task", *_EXEC_OPTIONS)
async def exec_(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its status, unless detached."""
    services = session.services
    container = await services.containers.get(words[0])
    process = first_process(container) | {"args": list(words[1:]), "terminal": values["tty"]}
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    if values["user"]:
        uid, _, gid = values["user"].partition(":")
        process["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    exec_id = values["exec_id"] or secrets.token_hex(8)
    spec = AnyMessage(PROCESS, json.dumps(process).encode("utf-8", "surrogateescape"))

    async def begin(io: TaskIO) -> None:
        await services.tasks.exec(container.id, exec_id, spec, io)
        await services.tasks.start(container.id, exec_id)

    if values["detach"]:
        await begin(TaskIO(terminal=values["tty"]))
        return 0
    try:
        ended = await in_foreground(services, container.id, exec_id, values["tty"], begin)
    except BrokenPipeError:
        await quietly(services.tasks.kill(container.id, signal.SIGPIPE, exec_id))  # as it would have had in a pipe
        raise
    await services.tasks.delete(container.id, exec_id)
    return ended.status


COMMANDS = (list_tasks, ps, kill, pause, resume, delete, metrics, start, exec_)
