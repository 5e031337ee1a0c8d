"""An engine with its doors open: what a daemon runs, and what a program that embeds portside serves to others."""

from __future__ import annotations

import os
from pathlib import Path

from portside.api.containerd.methods import SERVICES, containerd_methods
from portside.api.events_forward import forward_handlers
from portside.api.portside.engine import portside_methods
from portside.client.fifos import fifo_directory
from portside.client.places import Places
from portside.daemon.addresses import listeners, parse_tcp
from portside.daemon.config import DaemonConfig
from portside.daemon.observability import Observability
from portside.daemon.server_plugins import enabled
from portside.daemon.services import for_engine, served, shown
from portside.daemon.tcp import tcp_context
from portside.engine.engine import EngineConfig, LocalBackend
from portside.engine.graph import check_required
from portside.errors import from_oserror
from portside.wire.grpc.health import Health
from portside.wire.grpc.limits import ServerLimits
from portside.wire.grpc.reflection import reflection_methods
from portside.wire.grpc.server import GrpcServer
from portside.wire.ttrpc.server import TtrpcServer

SOCKET_MODE = 0o660
"""For the owner and the group that the configuration names, as containerd has it."""


class Host:
    """A backend, a gRPC server and a ttrpc server. ``start`` makes one, ``stop`` ends it; containers go on."""

    def __init__(self, config: DaemonConfig, backend: LocalBackend) -> None:
        config = enabled(config)
        self.backend = backend
        self._config = config
        self._health = Health()
        places = Places(backend.log_directory, fifo_directory())
        methods = [
            *containerd_methods(backend),
            *portside_methods(backend, places, backend.auto_remove, config.root, config.state),
            *self._health.methods(),
        ]
        methods = served(methods, config.disabled_plugins)
        self.observability = Observability(config, backend)
        wrapped = self.observability.wrap(methods)
        limits = ServerLimits(max_message_size=config.grpc.max_recv_message_size)
        self._grpc = GrpcServer([*wrapped, *reflection_methods(methods)], limits)
        self.tcp_addresses: list[tuple[str, int]] = []
        """Where the API is served over TCP."""
        self._ttrpc = TtrpcServer(forward_handlers(backend))
        backend.plugins += [*shown(SERVICES, config.disabled_plugins), *self.observability.plugins()]

    @classmethod
    async def start(cls, config: DaemonConfig) -> Host:
        """Own the root and serve it. RootLocked if it is owned; errors of ours name what failed."""
        engine = EngineConfig(
            config.root,
            config.state,
            config.socket,
            config.plugins,
            config.disabled_plugins,
            for_engine(config.required_plugins),
            config.timeouts,
            config.proxy_plugins,
            config.stream_processors,
            config.image_verifiers,
        )
        try:
            backend = await LocalBackend.open(engine)
        except OSError as error:
            raise from_oserror(error, f"open root {config.root}, state {config.state}") from error
        try:
            host = cls(config, backend)
        except BaseException:
            await backend.close()
            raise
        try:
            await host._listen()
            check_required(config.required_plugins, backend.plugins, config.disabled_plugins)
        except BaseException:
            await host.stop(0)
            raise
        return host

    async def _listen(self) -> None:
        for path in (self._config.socket, self._config.ttrpc_socket):
            try:
                Path(path).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            except OSError as error:
                raise from_oserror(error, f"listen on {path}") from error
        await self._ttrpc.start(self._config.ttrpc_socket)
        await self._listen_tcp()
        await self.observability.start(self._grpc)
        # The last, since whoever sees it there takes the daemon to be ready.
        await self._grpc.listen_unix(self._config.socket, SOCKET_MODE)
        grpc, ttrpc = self._config.grpc, self._config.ttrpc
        for path, uid, gid in (
            (self._config.socket, grpc.uid, grpc.gid),
            (self._config.ttrpc_socket, ttrpc.uid, ttrpc.gid),
        ):
            try:
                os.chown(path, uid, gid)
                os.chmod(path, SOCKET_MODE)  # that of ttrpc was ours alone until here
            except OSError as error:
                raise from_oserror(error, f"give {path} to {uid}:{gid}") from error

    async def _listen_tcp(self) -> None:
        grpc = self._config.grpc
        if not grpc.tcp_address:
            return
        host, port = parse_tcp(grpc.tcp_address)
        tls = tcp_context(grpc, host)
        for listener in await listeners(host, port):
            self.tcp_addresses.append(listener.getsockname()[:2])
            await self._grpc.listen(listener, tls)

    async def stop(self, grace_seconds: float) -> None:
        """Calls in progress get ``grace_seconds``; then everything of ours ends."""
        self._health.shut_down()
        await self._grpc.drain(grace_seconds)
        await self.observability.close()
        await self._ttrpc.close()
        await self.backend.close()
