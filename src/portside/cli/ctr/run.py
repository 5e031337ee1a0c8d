"""``ctr run``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import Session, Values, command
from portside.cli.ctr.foreground import in_foreground
from portside.cli.ctr.making import OPTIONS, make
from portside.cli.options import Option
from portside.client.remove import discard
from portside.core.tasks import TaskIO

_RM = Option("--rm", help="remove the container when it has ended")
_DETACH = Option("-d", "--detach", help="do not wait for it")


@command("run", "IMAGE CONTAINER [COMMAND] [ARG...]", "run a container", *OPTIONS, _RM, _DETACH)
async def run(session: Session, values: Values, words: Sequence[str]) -> int:
    """Its status, unless detached."""
    services = session.services
    container, mounts = await make(session, values, words[0], words[1], words[2:])

    async def begin(io: TaskIO) -> None:
        try:
            await services.tasks.create(container.id, mounts, io, options=container.runtime_options)
            await services.tasks.start(container.id)
        except BaseException:
            if values["rm"]:
                await discard(services, container)
            raise

    if values["detach"]:
        await begin(TaskIO(terminal=values["tty"]))
        return 0
    try:
        ended = await in_foreground(services, container.id, "", values["tty"], begin)
    except BrokenPipeError:
        if values["rm"]:
            await discard(services, container)
        raise
    await services.tasks.delete(container.id)
    if values["rm"]:
        await discard(services, container)
    return ended.status


COMMANDS = (run,)
