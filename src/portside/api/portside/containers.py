"""The verbs of containers in our own service (``portside.services.engine.v1.Engine``)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from portside.api.context import bound
from portside.api.portside.options import run_options
from portside.api.portside.registries import registry_for
from portside.api.portside.streaming import with_progress
from portside.client.create import create
from portside.client.exec import ExecOptions
from portside.client.freeze import pause, resume
from portside.client.inspect import inspect
from portside.client.list import ContainerSummary, list_containers
from portside.client.logs import logs
from portside.client.lookup import find_container, find_image, name_of
from portside.client.places import Places
from portside.client.progress import ProgressCallback
from portside.client.pull import PullOptions, pull
from portside.client.remove import remove
from portside.client.run import Attached, run, stream_io
from portside.client.signals import parse_signal
from portside.client.start import start
from portside.client.stats import Stats, stats
from portside.client.stop import STOP_TIMEOUT, kill, stop
from portside.client.wait import wait
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.services import Backend, Services
from portside.core.tasks import Exit
from portside.engine.autoremove import AutoRemove
from portside.errors import CommandNotExecutable, CommandNotFound, InvalidArgument, NotFound, PortsideError
from portside.oci.platform import Platform
from portside.oci.reference import Reference
from portside.wire.grpc.service import Call
from portside.wire.pb.portside.services.engine.v1 import engine_pb2 as pb

STATS_SECONDS = 1.0
"""Between two rounds of figures."""


class ContainerVerbs:
    """Thin: parse, call a verb, convert."""

    def __init__(self, backend: Backend, places: Places, auto_remove: AutoRemove) -> None:
        self._backend, self._places, self._auto_remove = backend, places, auto_remove

    async def run(self, request: pb.RunRequest, call: Call) -> AsyncIterator[pb.RunEvent]:
        """Create and start, pulling if need be; then follow to the end unless detached."""
        services = bound(self._backend, call)
        options = run_options(request)
        image = None if request.pull == "always" else await _image(services, request.image)
        if image is None:
            async for event in self._pulled(services, request):
                yield event
            image = await find_image(services, request.image)
        if request.create_only:
            made = (await create(services, self._places, image, options, remove=request.remove)).container
            yield _started(made, 0)
            return
        attached = None if request.detach else _attached(request.streams)
        try:
            running = await run(services, self._places, image, options, attached=attached, remove=request.remove)
        except (CommandNotFound, CommandNotExecutable) as error:
            yield _not_started(error)
            return
        ending = self._auto_remove.watch(services, running.container) if request.remove else None
        yield _started(running.container, running.pid)
        if not request.detach:
            call.endless = True
            ended = await (asyncio.shield(ending) if ending else services.tasks.wait(running.container.id))
            yield _exited(ended)

    async def _pulled(self, services: Services, request: pb.RunRequest) -> AsyncIterator[pb.RunEvent]:
        if request.pull == "never":
            raise NotFound(f"image {request.image}: not here, and pulling was forbidden")
        reference = Reference.parse_familiar(request.image)
        options = PullOptions(
            platforms=(Platform.parse(request.platform),) if request.platform else (), snapshotter=request.snapshotter
        )
        async with registry_for(plain_http=request.plain_http) as registry:

            async def verb(progress: ProgressCallback) -> Image:
                return await pull(services, registry, reference, options, progress=progress)

            async for event in with_progress(verb, lambda image: pb.RunEvent()):
                yield event

    async def exec(self, request: pb.ExecRequest, call: Call) -> AsyncIterator[pb.RunEvent]:
        """A further process; followed unless detached, and removed when it has ended, whoever is there to see it."""
        services = bound(self._backend, call)
        container = await find_container(services, request.container)
        options = ExecOptions(
            tuple(request.args), tuple(request.env), request.workdir, request.user, request.streams.terminal,
            request.privileged, (request.streams.width, request.streams.height),
        )  # fmt: skip
        attached = None if request.detach else _attached(request.streams)
        try:
            exec_id, ending = await self._auto_remove.exec(services, container, options, attached)
        except (CommandNotFound, CommandNotExecutable) as error:
            yield _not_started(error)
            return
        yield pb.RunEvent(started=pb.Started(container=container.id, name=name_of(container), exec=exec_id))
        if not request.detach:
            call.endless = True
            yield _exited(await asyncio.shield(ending))

    async def list(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        """What ``ps`` shows."""
        services = bound(self._backend, call)
        rows = await list_containers(services, all=request.all)
        wanted = [row for row in rows if all(_matches(row, text) for text in request.filters)]
        return pb.ListResponse(
            containers=[
                pb.ContainerSummary(
                    id=row.id, name=row.name, image=row.image, command=row.command, created_ns=row.created_ns,
                    state=row.state, exit_status=row.exit_status, exited_ns=row.exited_ns, pid=row.pid,
                    labels=row.labels,
                )
                for row in wanted
            ]
        )  # fmt: skip

    async def inspect(self, request: pb.InspectRequest, call: Call) -> pb.InspectResponse:
        """A container, or an image."""
        document = await inspect(bound(self._backend, call), request.name, request.kind)
        return pb.InspectResponse(json=json.dumps(document).encode())

    async def logs(self, request: pb.LogsRequest, call: Call) -> AsyncIterator[pb.LogEntry]:
        """What it wrote."""
        services = bound(self._backend, call)
        container = await find_container(services, request.container)
        call.endless = request.follow
        entries = logs(
            services, container, follow=request.follow, tail=request.tail, since_ns=request.since_ns,
            until_ns=request.until_ns,
        )  # fmt: skip
        async for entry in entries:
            yield pb.LogEntry(time_ns=entry.time_ns, stream=entry.stream, data=entry.data)

    async def start(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """Start a container that was created or has ended; its output goes to its log."""
        services, container = await self._find(request, call)
        terminal = _wants_terminal(container)
        await start(services, container, stream_io(self._places, container, terminal, None, keep_log=True))
        return pb.ContainerResponse(container=container.id)

    async def stop(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """The stop signal, then SIGKILL."""
        services, container = await self._find(request, call)
        timeout = STOP_TIMEOUT if request.timeout < 0 else float(request.timeout)
        signal = parse_signal(request.signal) if request.signal else 0
        ended = await stop(services, container, timeout=timeout, signal=signal)
        return pb.ContainerResponse(container=container.id, exit_status=ended.status if ended else 0)

    async def kill(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """A signal, to its first process or to an exec."""
        services, container = await self._find(request, call)
        if request.exec:
            await services.tasks.kill(container.id, parse_signal(request.signal or "KILL"), request.exec)
        else:
            await kill(services, container, request.signal)
        return pb.ContainerResponse(container=container.id)

    async def pause(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """Freeze."""
        services, container = await self._find(request, call)
        await pause(services, container)
        return pb.ContainerResponse(container=container.id)

    async def resume(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """Thaw."""
        services, container = await self._find(request, call)
        await resume(services, container)
        return pb.ContainerResponse(container=container.id)

    async def remove(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """Record, snapshot and log."""
        services, container = await self._find(request, call)
        await remove(services, container, force=request.force)
        return pb.ContainerResponse(container=container.id)

    async def wait(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """Until it has ended."""
        services, container = await self._find(request, call)
        call.endless = True
        ended = await wait(services, container)
        return pb.ContainerResponse(container=container.id, exit_status=ended.status)

    async def resize(self, request: pb.ResizeRequest, call: Call) -> pb.ContainerResponse:
        """The size of a terminal."""
        services = bound(self._backend, call)
        container = await find_container(services, request.container)
        await services.tasks.resize(container.id, request.width, request.height, request.exec)
        return pb.ContainerResponse(container=container.id)

    async def close_stdin(self, request: pb.ContainerRequest, call: Call) -> pb.ContainerResponse:
        """The end of its input."""
        services, container = await self._find(request, call)
        await services.tasks.close_io(container.id, request.exec)
        return pb.ContainerResponse(container=container.id)

    async def stats(self, request: pb.StatsRequest, call: Call) -> AsyncIterator[pb.StatsRound]:
        """Figures of those named, or of all that run; percentages need two looks."""
        services = bound(self._backend, call)
        call.endless = request.follow
        found = [await find_container(services, text) for text in request.containers]
        ids = [container.id for container in found]
        before = {one.id: one for one in await stats(services, ids)}
        while True:
            await asyncio.sleep(STATS_SECONDS)
            names = {container.id: name_of(container) for container in await services.containers.list()}
            now = await stats(services, ids)
            yield pb.StatsRound(containers=[_stats(one, before.get(one.id), names.get(one.id, "")) for one in now])
            if not request.follow:
                return
            before = {one.id: one for one in now}

    async def _find(self, request: pb.ContainerRequest, call: Call) -> tuple[Services, Container]:
        services = bound(self._backend, call)
        return services, await find_container(services, request.container)


async def _image(services: Services, text: str) -> Image | None:
    try:
        return await find_image(services, text)
    except NotFound:
        return None


def _attached(streams: pb.Streams) -> Attached:
    return Attached(streams.stdin, streams.stdout, streams.stderr)


def _started(container: Container, pid: int) -> pb.RunEvent:
    return pb.RunEvent(started=pb.Started(container=container.id, name=name_of(container), pid=pid))


def _exited(ended: Exit) -> pb.RunEvent:
    return pb.RunEvent(exited=pb.Exited(status=ended.status, exited_ns=ended.exited_ns))


def _not_started(error: PortsideError) -> pb.RunEvent:
    return pb.RunEvent(exited=pb.Exited(status=127 if isinstance(error, NotFound) else 126, error=str(error)))


def _wants_terminal(container: Container) -> bool:
    document = json.loads(container.spec.value) if container.spec else {}
    return bool(document.get("process", {}).get("terminal"))


def _matches(row: ContainerSummary, text: str) -> bool:
    """One of docker's filters: ``id=``, ``name=`` (parts of them), ``status=``, ``exited=``, ``label=KEY[=VALUE]``."""
    key, _, value = text.partition("=")
    if key == "label":
        name, equals, wanted = value.partition("=")
        return name in row.labels and (not equals or row.labels[name] == wanted)
    tests = {
        "id": row.id.startswith(value),
        "name": value in row.name,
        "status": row.state == value,
        "exited": row.state == "exited" and str(row.exit_status) == value,
    }
    if key not in tests:
        raise InvalidArgument(f"filter {text!r}: want id, name, status, exited or label")
    return tests[key]


def _stats(now: Stats, before: Stats | None, name: str) -> pb.ContainerStats:
    return pb.ContainerStats(
        id=now.id, name=name, time_ns=now.time_ns, cpu_ns=now.cpu_ns,
        cpu_percent=now.cpu_percent(before) if before else 0.0, memory=now.memory, memory_limit=now.memory_limit,
        pids=now.pids, read_bytes=now.read_bytes, written_bytes=now.written_bytes,
    )  # fmt: skip
