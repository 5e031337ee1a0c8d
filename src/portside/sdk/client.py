"""The verbs as methods, over one namespace of a server or an engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from portside.client import events as event_verb
from portside.client import images as image_verbs
from portside.client import inspect as inspect_verb
from portside.client import list as list_verb
from portside.client import stats as stats_verb
from portside.client.flights import Flights
from portside.client.image_export import export_images
from portside.client.image_import import ImportOptions, import_images
from portside.client.images import ImageSummary
from portside.client.list import ContainerSummary
from portside.client.lookup import find_container, find_image
from portside.client.places import Places
from portside.client.progress import ProgressCallback, ignore
from portside.client.pull import PullOptions, pull
from portside.client.push import push
from portside.client.run import Attached, run
from portside.client.run_options import RunOptions, Volume, parse_size
from portside.client.stats import Stats
from portside.core.events import Envelope
from portside.core.images import Image
from portside.core.services import Backend, Services
from portside.core.work import in_thread
from portside.errors import from_oserror
from portside.oci.platform import Platform
from portside.oci.reference import Reference
from portside.sdk.pending import Pending
from portside.sdk.process import Streams
from portside.sdk.task import Task

if TYPE_CHECKING:
    from portside.registry import Registry


class Client:
    """Everything that can be done in one namespace. Made by ``portside.connect`` and ``portside.Engine``."""

    def __init__(self, backend: Backend, namespace: str, places: Places) -> None:
        self.backend = backend
        """The server's services, for what has no method here."""
        self.services: Services = backend.bind(namespace)
        self._places = places
        self._flights = Flights()

    @property
    def namespace(self) -> str:
        """Its name."""
        return self.services.namespace

    async def version(self) -> str:
        """The server's version."""
        return (await self.backend.introspection.version()).version

    # Images ---------------------------------------------------------------------------------------------------------

    async def pull(
        self, reference: str, *, platform: str = "", snapshotter: str = "", unpack: bool = True,
        plain_http: bool | None = None, credentials: tuple[str, str] | None = None,
        progress: ProgressCallback = ignore,
    ) -> Image:  # fmt: skip
        """Fetch and unpack an image; ``busybox`` means ``docker.io/library/busybox:latest``.

        ``plain_http``: None is https except for loopback. ``credentials`` None: those of ``docker login``. NotFound,
        Unauthenticated, PermissionDenied, Unavailable and DataLoss tell what went wrong with the registry.
        """
        name = Reference.parse_familiar(reference)
        options = PullOptions(
            platforms=(Platform.parse(platform),) if platform else (), snapshotter=snapshotter, unpack=unpack
        )
        async with _registry(plain_http, credentials) as registry:
            return await pull(self.services, registry, name, options, progress=progress, flights=self._flights)

    async def push(
        self, image: Image | str, reference: str = "", *, platform: str = "",
        plain_http: bool | None = None, credentials: tuple[str, str] | None = None,
        progress: ProgressCallback = ignore,
    ) -> None:  # fmt: skip
        """Send an image to a registry, as ``reference`` or under its own name."""
        found = await self._image(image)
        name = Reference.parse_familiar(reference or found.name)
        wanted = Platform.parse(platform) if platform else None
        async with _registry(plain_http, credentials) as registry:
            await push(self.services, registry, found, name, platform=wanted, progress=progress)

    async def images(self) -> list[ImageSummary]:
        """All images, by name."""
        return await image_verbs.list_images(self.services)

    async def image(self, name: str) -> Image:
        """One image, by its name as people write it, or the start of its digest; NotFound."""
        return await find_image(self.services, name)

    async def import_images(
        self, source: str | os.PathLike[str] | BinaryIO, *, base_name: str = "", platform: str = "",
        snapshotter: str = "", unpack: bool = True, progress: ProgressCallback = ignore,
    ) -> list[Image]:  # fmt: skip
        """Read an archive: an OCI image layout, or what ``docker save`` writes, also as gzip; the images it names.

        ``base_name`` is for archives that only give tags. A file given open stays the caller's.
        """
        options = ImportOptions(
            base_name, Platform.parse(platform) if platform else None, snapshotter=snapshotter, unpack=unpack
        )
        async with _opened(source, "rb") as file:
            return await import_images(self.services, _chunks(file), options, progress=progress, flights=self._flights)

    async def export_images(
        self, images: Image | str | Sequence[Image | str], target: str | os.PathLike[str] | BinaryIO, *,
        platform: str = "", progress: ProgressCallback = ignore,
    ) -> None:  # fmt: skip
        """Write images as one archive that containerd, Docker, podman and skopeo read.

        A file made here is removed again if it fails; one given open stays the caller's.
        """
        names = [images] if isinstance(images, (Image, str)) else list(images)
        found = [await self._image(image) for image in names]
        wanted = Platform.parse(platform) if platform else None
        async with _opened(target, "wb") as file:
            async for chunk in export_images(self.services, found, wanted, progress=progress):
                await in_thread(file.write, chunk)

    async def tag(self, image: Image | str, name: str) -> Image:
        """Give an image one more name."""
        return await image_verbs.tag(self.services, image.name if isinstance(image, Image) else image, name)

    async def remove_image(self, image: Image | str, *, force: bool = False) -> None:
        """Remove an image's name, and what only it kept; FailedPrecondition if containers need it, unless ``force``."""
        name = image.name if isinstance(image, Image) else image
        await image_verbs.remove_image(self.services, name, force=force)

    # Containers -----------------------------------------------------------------------------------------------------

    def run(
        self, image: Image | str, args: Sequence[str] = (), *,
        name: str = "", env: Mapping[str, str] | None = None, cwd: str = "", user: str = "",
        entrypoint: str | None = None, hostname: str = "", tty: bool = False, stdin: bool = False,
        detach: bool = False, keep: bool = False,
        volumes: Mapping[str, str] | Sequence[Volume] = (), tmpfs: Sequence[str] = (), network: str = "none",
        memory: int | str = 0, cpus: float = 0.0, pids: int = 0, read_only: bool = False, privileged: bool = False,
        cap_add: Sequence[str] = (), cap_drop: Sequence[str] = (), labels: Mapping[str, str] | None = None,
        seccomp: bool = True, no_new_privileges: bool = True, options: RunOptions | None = None,
    ) -> Pending[Task]:  # fmt: skip
        """Start a container: ``async with c.run(image, ["sh", "-c", "…"]) as task`` or ``task = await c.run(…)``.

        Leaving the block stops the container and removes it (``keep`` only stops it); an awaited one stays until
        ``task.remove``. Output comes through ``task.stdout`` and ``task.stderr``; that of a container that stays goes
        to its log as well, and with ``detach`` only there.
        ``volumes`` maps paths of the machine to paths in the container (``/in/it:ro``), or gives ``Volume`` objects;
        ``memory`` is bytes or ``512m``. ``options`` sets everything else, the keywords win over it.
        """
        chosen = replace(
            options or RunOptions(), args=tuple(args) or (options.args if options else ()),
            **_given(
                name=name, env=tuple(f"{key}={value}" for key, value in (env or {}).items()), cwd=cwd, user=user,
                entrypoint=entrypoint, hostname=hostname, tty=tty, volumes=_volumes(volumes), tmpfs=tuple(tmpfs),
                memory=parse_size(memory) if isinstance(memory, str) else memory, cpus=cpus, pids=pids,
                read_only=read_only, privileged=privileged, cap_add=tuple(cap_add), cap_drop=tuple(cap_drop),
                labels=labels,
            ),
        )  # fmt: skip
        changed = _given(network=network if network != "none" else "")
        if not seccomp:
            changed["seccomp"] = False
        if not no_new_privileges:
            changed["no_new_privileges"] = False
        chosen = replace(chosen, **changed)

        async def make(scoped: bool) -> Task:
            return await self._run(image, chosen, stdin=stdin, detach=detach, keep=keep or not scoped)

        async def dispose(task: Task) -> None:
            await asyncio.shield(task.dispose(keep=keep))

        return Pending(make, dispose)

    async def _run(self, image: Image | str, options: RunOptions, *, stdin: bool, detach: bool, keep: bool) -> Task:
        found = await self._image(image)
        if detach:
            running = await run(self.services, self._places, found, options, remove=not keep)
            return Task(self.services, self._places, running.container, None)
        streams = Streams(self._places.fifo_directory, stdin=stdin, terminal=options.tty)
        try:
            fifos = streams.fifos
            attached = Attached(fifos.stdin, fifos.stdout, fifos.stderr)
            running = await run(self.services, self._places, found, options, attached=attached, remove=not keep)
        except BaseException:
            streams.close()
            raise
        streams.connected()
        return Task(self.services, self._places, running.container, streams)

    async def get(self, name: str) -> Task:
        """A container that is there, by name, id or start of an id; NotFound. Its streams are not attached."""
        return Task(self.services, self._places, await find_container(self.services, name), None)

    async def containers(self, *, all: bool = True) -> list[ContainerSummary]:
        """Containers, newest first; without ``all`` those that run."""
        return await list_verb.list_containers(self.services, all=all)

    async def stats(self) -> list[Stats]:
        """What every running container uses now."""
        return await stats_verb.stats(self.services)

    async def inspect(self, name: str, kind: str = "") -> dict[str, Any]:
        """All about a container or an image."""
        return await inspect_verb.inspect(self.services, name, kind)

    def events(self, filters: Sequence[str] = ()) -> AsyncIterator[Envelope]:
        """What happens in this namespace from now on."""
        return event_verb.events(self.services, filters)

    async def _image(self, image: Image | str) -> Image:
        return image if isinstance(image, Image) else await find_image(self.services, image)


@asynccontextmanager
async def _opened(file: str | os.PathLike[str] | BinaryIO, mode: Literal["rb", "wb"]) -> AsyncIterator[BinaryIO]:
    """The caller's file as it is, or the one at a path, closed at the end; what was made does not stay half written."""
    if not isinstance(file, (str, os.PathLike)):
        yield file
        return
    try:
        opened = await in_thread(open, file, mode)
    except OSError as error:
        raise from_oserror(error, f"open {os.fspath(file)}") from error
    try:
        yield opened
        await in_thread(opened.close)
    except BaseException:
        opened.close()
        if mode == "wb":
            os.unlink(file)
        raise


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await in_thread(file.read, 1 << 20):
        yield chunk


@asynccontextmanager
async def _registry(plain_http: bool | None, credentials: tuple[str, str] | None) -> AsyncIterator[Registry]:
    """A registry client for one verb; imported here, since most programs that start containers never pull."""
    from portside.registry import DockerCredentials, Registry, RegistryConfig

    given = (lambda host: credentials) if credentials else DockerCredentials()
    registry = Registry(RegistryConfig(plain_http=plain_http, credentials=given))
    try:
        yield registry
    finally:
        await registry.close()


def _given(**fields: Any) -> dict[str, Any]:
    """Those that say something."""
    return {key: value for key, value in fields.items() if value or (value == "" and key == "entrypoint")}


def _volumes(volumes: Mapping[str, str] | Sequence[Volume]) -> tuple[Volume, ...]:
    if isinstance(volumes, Mapping):
        return tuple(Volume.parse(f"{source}:{target}") for source, target in volumes.items())
    return tuple(volumes)
