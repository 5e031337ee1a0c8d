"""The daemon's configuration: containerd's TOML file, versions 2, 3 and 4, and the flags over it.

What a version calls a thing is known here only; everybody else sees ``DaemonConfig``. Files named by ``imports``
are not merged yet, and saying so is better than running without them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portside.core.settings import ImageVerifiers, ProxyPlugin, StreamProcessor
from portside.errors import InvalidArgument, NotFound

DEFAULT_FILE = Path("/etc/portside/config.toml")
DEFAULT_ROOT = Path("/var/lib/portside")
DEFAULT_STATE = Path("/run/portside")
VERSIONS = (2, 3, 4)
_SERVER = "io.containerd.server.v1."
LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")


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

    @property
    def socket(self) -> str:
        """Where the API is served."""
        return self.grpc.address or str(self.state / "portside.sock")

    @property
    def ttrpc_socket(self) -> str:
        """Where shims deliver events."""
        return self.ttrpc.address or self.socket + ".ttrpc"


def load(path: Path | None) -> DaemonConfig:
    """Read ``path``, or the default file if there is one; NotFound and InvalidArgument name the file and the key."""
    if path is None:
        if not DEFAULT_FILE.exists():
            return DaemonConfig()
        path = DEFAULT_FILE
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise NotFound(f"configuration {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"configuration {path}: {error}") from error
    try:
        return parse(document)
    except InvalidArgument as error:
        raise InvalidArgument(f"configuration {path}: {error}") from error


def parse(document: Mapping[str, Any]) -> DaemonConfig:
    """A decoded file; unknown keys are left alone, as containerd does, keys of the wrong type are InvalidArgument."""
    version = document.get("version", 1)
    if version not in VERSIONS:
        raise InvalidArgument(f"version {version!r}: want 2, 3 or 4")
    if document.get("imports"):
        raise InvalidArgument("imports: merging other files is not supported yet")
    plugins = _table(document, "plugins")
    grpc = _table(plugins, _SERVER + "grpc") if version == 4 else _table(document, "grpc")
    ttrpc = _table(plugins, _SERVER + "ttrpc") if version == 4 else _table(document, "ttrpc")
    debug = _table(plugins, _SERVER + "debug") if version == 4 else _table(document, "debug")
    level = _value(debug, "level", str) or "info"
    if level not in LEVELS:
        raise InvalidArgument(f"debug level {level!r}: want one of {', '.join(LEVELS)}")
    return DaemonConfig(
        root=Path(_value(document, "root", str) or DEFAULT_ROOT),
        state=Path(_value(document, "state", str) or DEFAULT_STATE),
        grpc=GrpcConfig(
            address=_value(grpc, "address", str) or "",
            uid=_value(grpc, "uid", int) or 0,
            gid=_value(grpc, "gid", int) or 0,
        ),
        ttrpc=TtrpcConfig(
            address=_value(ttrpc, "address", str) or "",
            uid=_value(ttrpc, "uid", int) or 0,
            gid=_value(ttrpc, "gid", int) or 0,
        ),
        debug=DebugConfig(level=level),
        oom_score=_value(document, "oom_score", int) or 0,
        disabled_plugins=_names(document, "disabled_plugins"),
        required_plugins=_names(document, "required_plugins"),
        plugins={name: _table(plugins, name) for name in plugins},
    )


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise InvalidArgument(f"{key}: want a table")
    return table


def _value(table: Mapping[str, Any], key: str, kind: type) -> Any:
    value = table.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InvalidArgument(f"{key}: want {'text' if kind is str else 'a number'}, not {value!r}")
    return value


def _names(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = document.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"{key}: want a list of plugin URIs")
    return tuple(names)
