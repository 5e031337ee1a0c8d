"""From a container to its running task, and the options that say how: what ``run``, ``start`` and ``restore`` share."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from portside.cli.ctr.foreground import in_foreground, unseen
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.options import Option
from portside.client.exec import first_process
from portside.client.remove import discard_process
from portside.core.anymessage import RUNC_OPTIONS, AnyMessage
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.services import Services
from portside.core.tasks import TaskIO
from portside.errors import InvalidArgument
from portside.oci.descriptor import Descriptor

DETACH = Option("-d", "--detach", help="do not wait for it")
STREAMS = (
    Option("--null-io", help="without streams"),
    Flag("--log-uri", value="URI", help="where output goes, for the shim: file:///…, binary:///…"),
    Flag("--fifo-dir", value="DIR", help="where the fifos are made"),
)


def streams(values: Values, terminal: bool) -> TaskIO | None:
    """Where output goes if not to us; None if it is ours. InvalidArgument for what excludes each other."""
    if terminal and values.get("null_io"):
        raise InvalidArgument("a terminal and --null-io exclude each other")
    if terminal and values["log_uri"]:
        raise InvalidArgument("a terminal and --log-uri exclude each other")
    if values["log_uri"]:
        return TaskIO("", values["log_uri"], values["log_uri"])
    if values.get("null_io") or values["detach"]:
        return TaskIO(terminal=terminal)
    return None


async def run_task(
    services: Services, container: Container, mounts: Sequence[Mount], values: Values, *,
    created: Callable[[int], Awaitable[None]] | None = None, checkpoint: Descriptor | None = None,
) -> int:  # fmt: skip
    """Create and start the task of ``container``, stay with it unless detached, and delete it; its exit status.

    ``created`` is called with the pid before the start.
    """
    terminal = bool(first_process(container).get("terminal"))
    elsewhere = streams(values, terminal)

    async def begin(io: TaskIO) -> None:
        pid = await services.tasks.create(
            container.id, mounts, io, options=task_options(container, values), checkpoint=checkpoint
        )
        try:
            if values["pid_file"]:
                write_pid_file(values["pid_file"], pid)
            if created is not None:
                await created(pid)
            await services.tasks.start(container.id)
        except BaseException:
            await discard_process(services, container.id)
            raise

    if elsewhere is not None:
        await begin(elsewhere)
        if values["detach"]:
            return 0
        await unseen(services, container.id)
    else:
        await in_foreground(services, container.id, "", terminal, begin, values["fifo_dir"])
    return (await services.tasks.delete(container.id)).status


def write_pid_file(path: str, pid: int) -> None:
    """The number, in place of whatever the file had; never seen half written. Links that are there are not followed."""
    path = os.path.abspath(path)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}-{os.urandom(4).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)


def task_options(container: Container, values: Values) -> AnyMessage | None:
    """The container's runtime options with those of its task: no pivot_root, and whose its streams are."""
    owner = _stream_owner(container)
    found = container.runtime_options
    if not (values.get("no_pivot") or owner) or (found is not None and found.type_name != RUNC_OPTIONS):
        return found
    from portside.wire.pb.containerd.types.runc.options import oci_pb2

    options = oci_pb2.Options.FromString(found.value if found is not None else b"")
    options.no_pivot_root = bool(values.get("no_pivot"))
    if owner:
        options.io_uid, options.io_gid = owner
    return AnyMessage(RUNC_OPTIONS, options.SerializeToString())


def _stream_owner(container: Container) -> tuple[int, int] | None:
    """The first ids that a container's user namespace maps to; None without one."""
    try:
        spec: Any = json.loads(container.spec.value if container.spec else b"{}")
        linux = spec.get("linux") or {}
        return linux["uidMappings"][0]["hostID"], linux["gidMappings"][0]["hostID"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
