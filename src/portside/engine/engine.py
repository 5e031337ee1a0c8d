"""The engine: all local implementations put together, on a root that it owns.

    open     lock the root, build the plugins, start the supervisor; leftovers are adopted and garbage is collected in
             the background
    bind     the services of a namespace
    close    stop what is ours; containers and shims go on, and the next owner adopts them

Nothing here serves anybody: the daemon (``daemon/host.py``) puts doors in front of it, a program may use it as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portside.core.introspection import PluginStatus
from portside.core.labels import check_identifier
from portside.core.plugin import (
    CONTAINER_MONITOR,
    DEFAULTS,
    EVENT,
    GC,
    IMAGE_VERIFIER,
    METADATA,
    MOUNT_HANDLER,
    MOUNT_MANAGER,
    RUNTIME,
    SANDBOX_CONTROLLER,
    SERVICE,
    SNAPSHOTTER,
    STREAMING,
    TRANSFER,
    VERBS,
)
from portside.core.sandboxes import ControllerOf
from portside.core.settings import Defaults, ImageVerifiers, ProxyPlugin, StreamProcessor
from portside.core.tasks import TaskService
from portside.engine.autoremove import AutoRemove
from portside.engine.builtin import OURS
from portside.engine.deprecations import Deprecations
from portside.engine.events import Exchange
from portside.engine.gc import Policy, Scheduler
from portside.engine.graph import PluginGraph
from portside.engine.introspection import LocalIntrospection
from portside.engine.mounts import MountKeeper
from portside.engine.outside import Outside
from portside.engine.ownership import RootLock
from portside.engine.plugins import registered
from portside.engine.proxies import Proxies
from portside.engine.restart import RestartMonitor
from portside.engine.root_mounts import RootMounts
from portside.engine.runtime_info import RuntimeInformer
from portside.engine.sandboxes import ShimSandboxes
from portside.engine.services import LocalServices
from portside.engine.tasks import SHIM_STATS, TaskManager
from portside.engine.transfer.service import Transfers
from portside.metadata.backups import Backups
from portside.metadata.namespaces import Namespaces
from portside.metadata.store import Metadata
from portside.supervisor.deadlines import Deadlines
from portside.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is opened with; ``address`` is where its owner will serve it, for those who find it locked."""

    root: Path
    state: Path
    address: str = ""
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    disabled_plugins: Iterable[str] = ()
    required_plugins: Iterable[str] = ()
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds by containerd's name (``io.containerd.timeout.shim.load``); a name that is missing has its default."""
    proxy_plugins: Mapping[str, ProxyPlugin] = field(default_factory=dict)
    stream_processors: Mapping[str, StreamProcessor] = field(default_factory=dict)
    """By name."""
    image_verifiers: ImageVerifiers = field(default_factory=ImageVerifiers)


class LocalBackend:
    """core/services.Backend over the local implementations. ``open`` makes one, ``close`` ends it."""

    def __init__(self, config: EngineConfig, lock: RootLock, graph: PluginGraph, proxies: Proxies) -> None:
        self._config, self._lock, self._graph, self._proxies = config, lock, graph, proxies
        self._metadata: Metadata = graph.get(METADATA)
        self._exchange: Exchange = graph.get(EVENT)
        deadlines = Deadlines.from_timeouts(config.timeouts)
        self._supervisor = Supervisor(str(config.state), str(config.root), self._exchange.forward, deadlines=deadlines)
        self._mounts: MountKeeper | None = None
        if graph.all(MOUNT_MANAGER):
            targets = config.state / f"{MOUNT_MANAGER}.sqlite" / "t"
            self._mounts = MountKeeper(self._metadata, str(targets), (str(config.root),), graph.all(MOUNT_HANDLER))
        roots = RootMounts(self._mounts) if self._mounts is not None else None
        self._sandboxes = ShimSandboxes(str(config.state), str(config.root), self._supervisor, self._exchange.emit)
        self._controllers: dict[str, ControllerOf] = {
            name: self._sandboxes.bind if controller is OURS else controller
            for name, controller in graph.all(SANDBOX_CONTROLLER).items()
        }
        self._tasks = TaskManager(
            self._supervisor,
            self._metadata.containers,
            config.timeouts.get(SHIM_STATS, 2.0),
            roots,
            self._sandboxes.find,
        )
        self._collector = Scheduler(self._metadata, graph.all(GC).get("scheduler", Policy()))
        self._defaults: Defaults = graph.all(DEFAULTS).get("engine", Defaults())
        uri = f"{METADATA}.sqlite"
        self._backups = Backups.from_config(
            self._metadata.db, config.root / uri / "meta.db", config.plugins.get(uri, {})
        )
        self.plugins: list[PluginStatus] = list(graph.status)
        """What introspection shows; a door adds its own."""
        self.introspection = LocalIntrospection(
            self._metadata.uuid, self.plugins, {(RUNTIME, "task"): RuntimeInformer()}, Deprecations(config.plugins).list
        )
        self._outside = Outside(
            config.image_verifiers if graph.all(IMAGE_VERIFIER) else None,
            config.stream_processors,
            proxies.differs(graph),
            graph.all(SERVICE).get("diff-service", ()),
        )
        self._transfers = Transfers(graph.all(STREAMING).get("manager"), graph.all(TRANSFER).get("local"))
        if self._transfers.streams is not None:
            self._transfers.streams.watch(self._metadata)
        self.auto_remove = AutoRemove()
        self.restarts: RestartMonitor | None = None
        """None where the plugin is disabled."""
        if settings := graph.all(CONTAINER_MONITOR).get("restart"):
            self.restarts = RestartMonitor(self._metadata, self.bind, settings)
        self._resuming: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, config: EngineConfig) -> LocalBackend:
        """Own ``config.root`` and be ready. RootLocked if somebody else owns it; errors of ours name what failed."""
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.state.chmod(0o700)
        lock = RootLock(config.root, config.address)
        graph = PluginGraph(config.root, config.state, config.plugins)
        try:
            proxies = Proxies(config.proxy_plugins, config.timeouts)
            graph.build([*registered(), *proxies.plugins], config.disabled_plugins, config.required_plugins)
            backend = cls(config, lock, graph, proxies)
        except BaseException:
            for metadata in graph.all(METADATA).values():
                await metadata.db.close()
            lock.close()
            raise
        try:
            await backend._start()
        except BaseException:
            await backend.close()
            raise
        return backend

    async def _start(self) -> None:
        await self._supervisor.start()
        await self._sandboxes.start()
        if self._mounts is not None:
            await self._mounts.start()
        if f"{GC}.scheduler" not in self._config.disabled_plugins:
            self._collector.start()
        self._backups.start()
        if self.restarts is not None:
            self.restarts.start()
        self._resuming = asyncio.create_task(
            self.auto_remove.resume(self), name="watch containers that go by themselves"
        )
        self._resuming.add_done_callback(_log_failure)

    @property
    def namespaces(self) -> Namespaces:
        """All namespaces."""
        return self._metadata.namespaces

    @property
    def collector(self) -> Scheduler:
        """Who collects garbage, to ask how it goes."""
        return self._collector

    async def statistics(self) -> dict[str, Any]:
        """Figures for people who look for a defect: tasks by namespace, collections, containers that are watched."""
        names = await self.namespaces.list()
        return {
            "tasks": {name: len(await self._supervisor.tasks(name)) for name in names},
            "last_collection": self._collector.last,
            "collection_error": self._collector.error,
            "restarting": self.restarts.watched if self.restarts else 0,
        }

    @property
    def log_directory(self) -> str:
        """Where logs of containers go."""
        return str(self._graph.get(VERBS))

    def bind(self, namespace: str, lease: str = "") -> LocalServices:
        """The services of ``namespace``; InvalidArgument if the name is not allowed."""
        check_identifier(namespace, "namespace")
        return LocalServices(
            namespace, lease, self._metadata, self._exchange, self._task_service, self._outside, self._mounts,
            self._controllers,
            transfers=self._transfers, defaults=self._defaults,
        )  # fmt: skip

    def snapshotters(self) -> Mapping[str, str]:
        """Name and root of each."""
        return {
            name: "" if self._metadata.is_foreign(name) else str(self._config.root / f"{SNAPSHOTTER}.{name}")
            for name in self._graph.all(SNAPSHOTTER)
        }

    async def close(self) -> None:
        """Stop watching and collecting, let go of the shims, close the database, release the root."""
        if self._resuming is not None:
            self._resuming.cancel()
            await asyncio.gather(self._resuming, return_exceptions=True)
        await self.auto_remove.close()
        if self.restarts is not None:
            await self.restarts.close()
        self._transfers.close()
        await self._collector.close()
        await self._backups.close()
        await self._sandboxes.close()
        await self._supervisor.close()
        if self._mounts is not None:
            await self._mounts.close()
        await self._proxies.close()  # before the metadata, which waits for calls that are under way
        await self._metadata.close()
        await self._metadata.db.close()
        self._lock.close()

    def _task_service(self, namespace: str) -> TaskService:
        return self._tasks.bind(namespace)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s: %s", task.get_name(), error, exc_info=error)
