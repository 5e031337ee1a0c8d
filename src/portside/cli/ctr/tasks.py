"""``ctr tasks``, without those that start something."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from portside.cli.ctr.cni import configuration, has_network, tear_down
from portside.cli.ctr.command import QUIET, Session, command, complain, each
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.text import MIDDLE, WIDE, print_table
from portside.cli.options import Option, UsageError
from portside.client.labels import STOP_SIGNAL
from portside.client.signals import SIGKILL, parse_signal
from portside.core.services import Services
from portside.core.tasks import ProcessInfo, Status
from portside.core.work import in_thread
from portside.errors import DeadlineExceeded, NotFound

EXEC_ID = Flag("--exec-id", value="ID", help="an exec instead of the first process")
_KILL_SECONDS = 10
_DETAILS = "containerd.runc.v1.ProcessDetails"


@command("", QUIET)
async def list_tasks(session: Session, values: Values, words: Sequence[str]) -> None:
    """With pid and status."""
    tasks = await session.services.tasks.list()
    if values["quiet"]:
        for task in tasks:
            print(task.container_id)
        return
    rows = (f"{task.container_id}\t{task.pid}\t{task.status.name}" for task in tasks)
    print_table(("TASK\tPID\tSTATUS\t", *rows), WIDE)


@command("CONTAINER")
async def ps(session: Session, values: Values, words: Sequence[str]) -> None:
    """By pid; of an exec, which one it is."""
    infos = await session.services.tasks.pids(words[0])
    print_table(("PID\tINFO", *(f"{info.pid}\t{_info(info)}" for info in infos)), MIDDLE)


def _info(info: ProcessInfo) -> str:
    if info.info is None:
        return "-"
    if info.info.type_name != _DETAILS:
        return info.info.type_name
    from portside.wire.pb.containerd.types.runc.options import oci_pb2

    return f'exec_id:"{oci_pb2.ProcessDetails.FromString(info.info.value).exec_id}"'


@command(
    "CONTAINER",
    Flag("--signal", "-s", value="SIGNAL", help="a name or a number; default: what the image wants, else SIGTERM"),
    EXEC_ID,
    Option("-a", "--all", help="all processes"),
)
async def kill(session: Session, values: Values, words: Sequence[str]) -> None:
    """To the first process, to an exec, or to all."""
    if values["all"] and values["exec_id"]:
        raise UsageError("--all and --exec-id exclude each other")
    services = session.services
    container = await services.containers.get(words[0])
    number = parse_signal(values["signal"] or container.labels.get(STOP_SIGNAL) or "SIGTERM")
    if has_network(container):
        await in_thread(lambda: tear_down(configuration(), f"{session.namespace}-{container.id}"))
    await services.tasks.kill(container.id, number, values["exec_id"], values["all"])


@command("CONTAINER")
async def pause(session: Session, values: Values, words: Sequence[str]) -> None:
    """All its processes."""
    await session.services.tasks.pause(words[0])


@command("CONTAINER")
async def resume(session: Session, values: Values, words: Sequence[str]) -> None:
    """All its processes."""
    await session.services.tasks.resume(words[0])


@command("CONTAINER...", Option("-f", "--force", help="kill it first"), EXEC_ID)
async def delete(session: Session, values: Values, words: Sequence[str]) -> int:
    """One by one; of an exec its status."""
    services = session.services
    if values["exec_id"]:
        return await _delete(services, words[0], values["exec_id"], values["force"])

    async def one(id: str) -> None:
        status = await _delete(services, id, "", values["force"])
        if status:
            complain(f"task {id}: it had ended with status {status}")

    return await each(words, one)


async def _delete(services: Services, id: str, exec_id: str, force: bool) -> int:
    if force and (await services.tasks.get(id, exec_id)).status is not Status.STOPPED:
        try:
            await services.tasks.kill(id, SIGKILL, exec_id, not exec_id)
            await asyncio.wait_for(services.tasks.wait(id, exec_id), _KILL_SECONDS)
        except NotFound:
            pass
        except TimeoutError:
            raise DeadlineExceeded(f"task {id}: it is not gone {_KILL_SECONDS} s after SIGKILL") from None
    return (await services.tasks.delete(id, exec_id)).status
