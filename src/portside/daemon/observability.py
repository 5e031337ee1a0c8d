"""What a daemon shows to those who watch it, as far as it is asked for: metrics, traces, a debug socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from portside.core.introspection import PluginStatus
from portside.daemon.addresses import parse_tcp
from portside.daemon.config import DaemonConfig
from portside.daemon.debug import Debug
from portside.daemon.exposition import Exposition, Histogram, label_text, wants_openmetrics
from portside.daemon.grpc_metrics import GrpcMetrics
from portside.daemon.http import Answer, HttpServer, Request
from portside.daemon.process_metrics import collect_build, collect_process
from portside.daemon.server_plugins import TRACING, measures_tasks, statuses
from portside.daemon.task_metrics import collect_tasks
from portside.daemon.tracing import Tracing
from portside.engine.engine import LocalBackend
from portside.errors import InvalidArgument, PortsideError
from portside.metadata.gc import Report
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Method

log = logging.getLogger(__name__)

METRICS_PATH = "/v1/metrics"


class Observability:
    """Made before the server, whose methods it wraps; ``start`` opens its sockets, ``close`` ends it all."""

    def __init__(self, config: DaemonConfig, backend: LocalBackend) -> None:
        self._config, self._backend = config, backend
        self._why_no_traces = ""
        self._tracing = None if f"{TRACING}.otlp" in config.disabled_plugins else self._make_tracing()
        self._grpc = GrpcMetrics(histogram=config.metrics.grpc_histogram) if config.metrics.address else None
        self._collections = CollectionMetrics()
        self._servers: list[HttpServer] = []
        self._debug: Debug | None = None
        self._scrapes: dict[bool, asyncio.Task[Answer]] = {}

    def wrap(self, methods: Iterable[Method]) -> list[Method]:
        """The methods that the server is to serve."""
        wrapped = list(methods)
        if self._grpc is not None:
            wrapped = self._grpc.wrap(wrapped)
        if self._tracing is not None:
            wrapped = self._tracing.wrap(wrapped)
        return wrapped

    async def start(self, server: GrpcServer) -> None:
        """Open the sockets; errors of ours name the address."""
        if address := self._config.metrics.address:
            self._backend.collector.finished.append(self._collections.observe)
            http = self._serve(HttpServer({METRICS_PATH: self._metrics}))
            if path := _path(address):
                await http.listen_unix(path)
            else:
                for host, port in await http.listen_tcp(*parse_tcp(address)):
                    log.info("metrics on %s port %d", host, port)
        self._debug = Debug(server, self._backend)
        debug = self._config.debug
        if debug.address:
            path = _path(debug.address)
            if not path:
                raise InvalidArgument(f"debug address {debug.address!r}: want the path of a socket, which root owns")
            await self._serve(HttpServer(self._debug.pages())).listen_unix(path, debug.uid, debug.gid)

    def plugins(self) -> list[PluginStatus]:
        """What is watched and served, as introspection shows it."""
        return list(statuses(self._config, self._tracing is not None, self._why_no_traces))

    def _make_tracing(self) -> Tracing | None:
        """None, and a warning, also where traces are asked for and cannot be had: nobody stays away for that."""
        try:
            return Tracing.from_environment()
        except PortsideError as error:
            log.warning("%s", error)
            self._why_no_traces = str(error)
            return None

    def listen_to_signals(self) -> None:
        """For a process that is a daemon and nothing else: SIGUSR1 dumps to the log."""
        if self._debug is not None:
            self._debug.listen_to_signal()

    def _serve(self, server: HttpServer) -> HttpServer:
        self._servers.append(server)
        return server

    async def close(self) -> None:
        """Close the sockets, send the last spans."""
        for server in self._servers:
            await server.close()
        for scrape in list(self._scrapes.values()):
            scrape.cancel()
        await asyncio.gather(*self._scrapes.values(), return_exceptions=True)
        if self._collections.observe in self._backend.collector.finished:
            self._backend.collector.finished.remove(self._collections.observe)
        if self._tracing is not None:
            await self._tracing.close()

    async def _metrics(self, request: Request) -> Answer:
        """All figures; those who ask at the same time get the same ones."""
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        scrape = self._scrapes.get(openmetrics)
        if scrape is None:
            scrape = asyncio.create_task(self._scrape(openmetrics), name="metrics")
            self._scrapes[openmetrics] = scrape
            scrape.add_done_callback(lambda done: self._scraped(openmetrics, done))
        return await asyncio.shield(scrape)

    def _scraped(self, openmetrics: bool, scrape: asyncio.Task[Answer]) -> None:
        del self._scrapes[openmetrics]
        if not scrape.cancelled():
            scrape.exception()  # is for those who asked, who may have gone

    async def _scrape(self, openmetrics: bool) -> Answer:
        out = Exposition(openmetrics)
        if measures_tasks(self._config):
            await collect_tasks(self._backend, out)
        collect_build(out)
        self._collections.collect(out)
        if self._grpc is not None:
            self._grpc.collect(out)
        collect_process(out)
        pieces = []
        for piece in out.pieces():
            pieces.append(piece)
            await asyncio.sleep(0)  # with a thousand containers that is 10 MB of text
        return Answer(pieces, out.content_type)


class CollectionMetrics:
    """How often garbage was collected, how it went and how long it took, under containerd's names."""

    def __init__(self) -> None:
        self._counts = {"success": 0, "fail": 0}
        self._seconds = Histogram()

    def observe(self, report: Report | None) -> None:
        """Count one collection; None is one that failed."""
        if report is None:
            self._counts["fail"] += 1
            return
        self._counts["success"] += 1
        self._seconds.observe(report.seconds)

    def collect(self, out: Exposition) -> None:
        """Write the figures."""
        for status, count in self._counts.items():
            labels = label_text({"status": status})
            out.counter("containerd_gc_collections", "counter of gc scheduler collections", count, labels)
        out.histogram("containerd_gc_gc_seconds", "duration of gc scheduler collections", self._seconds)


def _path(address: str) -> str:
    """The path of a socket; empty for a TCP address."""
    path = address.removeprefix("unix://")
    return path if path.startswith("/") else ""
