"""The daemon's configuration: containerd's TOML files as one ``DaemonConfig``.

Reading and merging files is ``config_files.py``; what versions call a thing is ``config_versions.py``; writing it
out is ``config_dump.py``. The flags of ``portside daemon`` come on top (``cli/verbs/daemon.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from portside.core.durations import Seconds
from portside.core.plugin import Plugin, canonical
from portside.core.settings import ImageVerifiers, ProxyPlugin, StreamProcessor
from portside.core.tables import decode, unknown
from portside.daemon.config_files import Source, merged, overlaid, read_all
from portside.daemon.config_versions import MOVED, NEWEST, SERVER
from portside.engine.options import NoOptions
from portside.errors import InvalidArgument

DEFAULT_FILE = Path("/etc/portside/config.toml")
DEFAULT_ROOT = Path("/var/lib/portside")
DEFAULT_STATE = Path("/run/portside")
LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")
FORMATS = ("text", "json")
MAX_MESSAGE = (1 << 31) - 1
VERIFIERS = "io.containerd.image-verifier.v1.bindir"

TIMEOUTS: Mapping[str, float] = {
    "io.containerd.timeout.bolt.open": 0.0,
    "io.containerd.timeout.cri.defercleanup": 60.0,
    "io.containerd.timeout.metrics.shimstats": 2.0,
    "io.containerd.timeout.shim.cleanup": 5.0,
    "io.containerd.timeout.shim.load": 5.0,
    "io.containerd.timeout.shim.shutdown": 3.0,
    "io.containerd.timeout.task.state": 2.0,
    "io.portside.timeout.proxy.call": 10.0,
    "io.portside.timeout.proxy.layer": 3600.0,
    "io.portside.timeout.proxy.work": 120.0,
}
"""Containerd's names and defaults, and ours for proxy plugins (``engine/bounded.Limits``), in seconds."""


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """Where the API is served (``[grpc]``; version 4: plugins ``io.containerd.server.v1.grpc`` and ``…grpc-tcp``)."""

    address: str = ""
    """The socket; empty: ``portside.sock`` in the state directory."""
    tcp_address: str = ""
    """``host:port``; empty: no TCP."""
    tcp_tls_ca: str = ""
    """Certificates of those who may sign clients' certificates; empty: clients need none."""
    tcp_tls_cert: str = ""
    tcp_tls_key: str = ""
    uid: int = 0
    gid: int = 0
    """Who owns the socket."""
    max_recv_message_size: int = 16 << 20
    max_send_message_size: int = 16 << 20
    """Bytes of one message."""


@dataclass(frozen=True, slots=True)
class TtrpcConfig:
    """Where shims deliver events (``[ttrpc]``); an empty address: the gRPC socket's path and ``.ttrpc``."""

    address: str = ""
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class DebugConfig:
    """The debug socket (none without an address) and the log (``[debug]``)."""

    address: str = ""
    uid: int = 0
    gid: int = 0
    level: str = "info"
    """One of trace, debug, info, warn, error, fatal, panic."""
    format: str = "text"
    """``text`` or ``json``."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where Prometheus asks (``[metrics]``; none without an address)."""

    address: str = ""
    """``host:port``, or a socket's path."""
    grpc_histogram: bool = False
    """Whether durations of calls are measured too."""


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """What a daemon runs with."""

    root: Path = DEFAULT_ROOT
    """What must survive a reboot."""
    state: Path = DEFAULT_STATE
    """What need not."""
    temp: str = ""
    """Where temporary files go; empty: the system's place."""
    grpc: GrpcConfig = GrpcConfig()
    ttrpc: TtrpcConfig = TtrpcConfig()
    debug: DebugConfig = DebugConfig()
    metrics: MetricsConfig = MetricsConfig()
    oom_score: int = 0
    """Written to our ``oom_score_adj`` if not 0."""
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds by containerd's name (``io.containerd.timeout.shim.load``); a name that is missing has its default."""
    disabled_plugins: tuple[str, ...] = ()
    required_plugins: tuple[str, ...] = ()
    """Plugin URIs (``io.containerd.snapshotter.v1.overlayfs``)."""
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """A table for each plugin URI, ids of version 2 already moved to those of today."""
    proxy_plugins: Mapping[str, ProxyPlugin] = field(default_factory=dict)
    stream_processors: Mapping[str, StreamProcessor] = field(default_factory=dict)
    """By name."""
    image_verifiers: ImageVerifiers = field(default_factory=ImageVerifiers)
    warnings: tuple[str, ...] = ()
    """What the files say and nobody hears, a sentence each, to be logged."""

    @property
    def socket(self) -> str:
        """Where the API is served."""
        return self.grpc.address or str(self.state / "portside.sock")

    @property
    def ttrpc_socket(self) -> str:
        """Where shims deliver events."""
        return self.ttrpc.address or self.socket + ".ttrpc"


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """``io.containerd.monitor.task.v1.cgroups``."""

    no_prometheus: bool = False
    """Whether containers are left out of the metrics."""


@dataclass(frozen=True, slots=True)
class _Debug:
    level: str = "info"
    format: str = "text"
    log_trace_id: bool = False


OF_THE_DAEMON: Mapping[str, type[Any]] = {
    VERIFIERS: ImageVerifiers,
    "io.containerd.monitor.task.v1.cgroups": MonitorOptions,
    "io.containerd.tracing.processor.v1.otlp": NoOptions,
}
"""Tables that are not those of a plugin's row."""


@dataclass(frozen=True, slots=True)
class _Cgroup:
    path: str = ""


@dataclass(frozen=True, slots=True)
class _Document:
    """Version 4, as far as it is not about plugins."""

    version: int = NEWEST
    root: str = ""
    state: str = ""
    temp: str = ""
    disabled_plugins: Sequence[str] = ()
    required_plugins: Sequence[str] = ()
    oom_score: int = 0
    imports: Sequence[str] = ()
    debug: _Debug = _Debug()
    cgroup: _Cgroup = _Cgroup()
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    proxy_plugins: Mapping[str, ProxyPlugin] = field(default_factory=dict)
    stream_processors: Mapping[str, StreamProcessor] = field(default_factory=dict)
    timeouts: Mapping[str, Seconds] = field(default_factory=dict)


def load(path: Path | None, plugins: Sequence[Plugin] = ()) -> DaemonConfig:
    """Read ``path`` and its imports, or the default file if there is one.

    NotFound and InvalidArgument name the file and the key. ``plugins`` are those whose tables can be checked; what has
    no effect is told in ``warnings``.
    """
    if path is None:
        if not DEFAULT_FILE.exists():
            return DaemonConfig()
        path = DEFAULT_FILE
    sources = read_all(path)
    warnings: list[str] = []
    for source in sources:
        try:
            parse(source.document)
        except InvalidArgument as error:
            raise InvalidArgument(f"configuration {source.path}: {error}") from error
        warnings += [f"configuration {source.path}: {text}" for text in without_effect(source, plugins)]
    return replace(parse(merged(_named_as_here(source.document) for source in sources)), warnings=tuple(warnings))


def parse(document: Mapping[str, Any]) -> DaemonConfig:
    """A document of version 4; unknown keys are left alone, keys of the wrong type are InvalidArgument."""
    main = decode(_Document, document)
    plugins = _named_as_here({"plugins": main.plugins})["plugins"]
    server: dict[str, dict[str, Any]] = {"grpc": {}, "ttrpc": {}, "debug": {}, "metrics": {}}
    for table, key, plugin, name in MOVED:
        if name in main.plugins.get(plugin, {}):
            server[table][key] = main.plugins[plugin][name]
    own = {uri: decode(kind, plugins.get(uri, {}), f"plugins.'{uri}'") for uri, kind in OF_THE_DAEMON.items()}
    debug = decode(DebugConfig, server["debug"], "debug")
    return DaemonConfig(
        root=Path(main.root or DEFAULT_ROOT).absolute(),
        state=Path(main.state or DEFAULT_STATE).absolute(),
        temp=main.temp,
        grpc=_sized(decode(GrpcConfig, server["grpc"], "grpc")),
        ttrpc=decode(TtrpcConfig, server["ttrpc"], "ttrpc"),
        debug=replace(
            debug,
            level=_choice("debug.level", main.debug.level or "info", LEVELS),
            format=_choice("debug.format", main.debug.format or "text", FORMATS),
        ),
        metrics=decode(MetricsConfig, server["metrics"], "metrics"),
        oom_score=_between("oom_score", main.oom_score, -1000, 1000),
        timeouts=main.timeouts,
        disabled_plugins=_uris("disabled_plugins", main.disabled_plugins),
        required_plugins=_uris("required_plugins", main.required_plugins),
        plugins=plugins,
        proxy_plugins=main.proxy_plugins,
        stream_processors=main.stream_processors,
        image_verifiers=own[VERIFIERS],
    )


def _named_as_here(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """``document`` with our names for plugins (``core.plugin.canonical``): a table may stand there under either."""
    plugins: dict[str, Any] = {}
    for name, table in document.get("plugins", {}).items():
        plugins[canonical(name)] = overlaid(plugins.get(canonical(name), {}), table)
    return {**document, "plugins": plugins}


def without_effect(source: Source, plugins: Sequence[Plugin]) -> Iterator[str]:
    """What a file says and nobody hears, a sentence each: unknown keys, and tables of plugins that are not there."""
    for key in unknown(_Document, source.document):
        place = _MOVED_TO.get(key)
        yield f"{key}: unknown key, no effect" + (f"; version {NEWEST} has it in {place}" if place else "")
    for key, table in (("cgroup", "path"), ("debug", "log_trace_id")):
        if source.document.get(key, {}).get(table):
            yield f"{key}.{table}: not supported, no effect"
    for name in source.document.get("timeouts", {}):
        if name not in TIMEOUTS:
            yield f"timeouts.'{name}': unknown key, no effect"
    sent = source.document.get("plugins", {}).get(f"{SERVER}grpc", {}).get("max_send_message_size", 0)
    if sent not in (0, GrpcConfig().max_send_message_size):
        yield "max_send_message_size: not supported, no effect: answers are as long as they are"
    known = {**{plugin.uri: plugin.config for plugin in plugins}, **OF_THE_DAEMON}
    absent = []
    for name, table in source.document.get("plugins", {}).items():
        uri = canonical(name)
        if name in _SERVER_KEYS:
            keys = [key for key in table if key not in _SERVER_KEYS[name]]
        elif uri in known:
            kind = known[uri]
            keys = [] if kind is None else list(unknown(kind, table))
        else:
            absent.append(f"'{name}'")
            continue
        if keys:
            yield f"plugins.'{name}': unknown keys, no effect: {', '.join(keys)}"
    if absent and plugins:
        yield f"plugins: no such plugins here, no effect: {', '.join(absent)}"


_SERVER_KEYS = {plugin: {name for _, _, other, name in MOVED if other == plugin} for _, _, plugin, _ in MOVED}
_MOVED_TO = {f"{table}.{key}": f"plugins.'{plugin}'.{name}" for table, key, plugin, name in MOVED}


def _choice(key: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InvalidArgument(f"{key}: {value!r} is none of {', '.join(allowed)}")
    return value


def _between(key: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidArgument(f"{key}: {value} is not between {least} and {most}")
    return value


def _sized(grpc: GrpcConfig) -> GrpcConfig:
    """0 is the default size, as for containerd."""
    received = _between("grpc.max_recv_message_size", grpc.max_recv_message_size, 0, MAX_MESSAGE)
    sent = _between("grpc.max_send_message_size", grpc.max_send_message_size, 0, MAX_MESSAGE)
    return replace(
        grpc,
        max_recv_message_size=received or GrpcConfig().max_recv_message_size,
        max_send_message_size=sent or GrpcConfig().max_send_message_size,
    )


def _uris(key: str, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if "." not in name:
            raise InvalidArgument(f"{key}: {name!r} is no plugin URI such as io.containerd.snapshotter.v1.overlayfs")
    return tuple(canonical(name) for name in names)
