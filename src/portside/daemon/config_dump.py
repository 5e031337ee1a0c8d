"""The configuration written out: the defaults, what a daemon would run with, and a file brought to another version.

What is written loads again and means the same; the same configuration always gives the same text. Tables of plugins
carry containerd's names, so that containerd understands what both know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from portside.core.durations import format_duration
from portside.core.plugin import CONTAINERD_NAMES, Plugin
from portside.core.tables import encode
from portside.core.toml import dumps
from portside.daemon.config import OF_THE_DAEMON, TIMEOUTS, VERIFIERS, DaemonConfig
from portside.daemon.config_files import Source, overlaid
from portside.daemon.config_versions import MOVED, NEWEST, written_as

DROP_INS = "/etc/portside/conf.d/*.toml"

_ORDER = (
    "version", "root", "state", "temp", "disabled_plugins", "required_plugins", "oom_score", "imports",
    "grpc", "ttrpc", "debug", "metrics", "plugins", "proxy_plugins", "stream_processors", "timeouts",
)  # fmt: skip
_SPELLED = {ours: theirs for theirs, ours in CONTAINERD_NAMES.items()}


def default_text(plugins: Sequence[Plugin], version: int = NEWEST) -> str:
    """Every setting of the daemon and of ``plugins`` at its default, as ``version``."""
    document = _document(DaemonConfig(), plugins)
    return _text({**document, "imports": [DROP_INS]}, version)


def dump_text(config: DaemonConfig, plugins: Sequence[Plugin], version: int = NEWEST) -> str:
    """What a daemon with ``config`` runs with, imports merged in; FailedPrecondition if ``version`` cannot say it."""
    return _text(_document(config, plugins), version)


def migrated_text(source: Source, version: int = NEWEST) -> str:
    """One file as ``version``, without what it does not set; its imports stay imports. Comments are lost."""
    return _text(source.document, version)


def _text(document: Mapping[str, Any], version: int) -> str:
    written = written_as(document, version)
    names = [name for name in _ORDER if name in written] + sorted(written.keys() - set(_ORDER))
    ordered = {name: written[name] for name in names}
    if "plugins" in ordered:
        ordered["plugins"] = dict(sorted(ordered["plugins"].items()))
    return dumps(ordered)


def _document(config: DaemonConfig, plugins: Sequence[Plugin]) -> dict[str, Any]:
    return {
        "version": NEWEST,
        "root": str(config.root),
        "state": str(config.state),
        "temp": config.temp,
        "disabled_plugins": [_SPELLED.get(uri, uri) for uri in config.disabled_plugins],
        "required_plugins": [_SPELLED.get(uri, uri) for uri in config.required_plugins],
        "oom_score": config.oom_score,
        "imports": [],
        "debug": {"level": config.debug.level, "format": config.debug.format},
        "plugins": _plugins(config, plugins),
        "proxy_plugins": {name: encode(proxy) for name, proxy in sorted(config.proxy_plugins.items())},
        "stream_processors": {name: encode(program) for name, program in sorted(config.stream_processors.items())},
        "timeouts": {
            name: format_duration(seconds) for name, seconds in sorted({**TIMEOUTS, **config.timeouts}.items())
        },
    }


def _plugins(config: DaemonConfig, plugins: Sequence[Plugin]) -> dict[str, Any]:
    tables: dict[str, Any] = {plugin.uri: encode(plugin.config()) for plugin in plugins if plugin.config is not None}
    tables |= {uri: encode(kind()) for uri, kind in OF_THE_DAEMON.items()}
    tables[VERIFIERS] = encode(config.image_verifiers)
    tables = overlaid(tables, config.plugins)
    for table, key, plugin, name in MOVED:
        tables.setdefault(plugin, {})[name] = getattr(getattr(_placed(config), table), key)
    return {_SPELLED.get(uri, uri): table for uri, table in tables.items() if table}


def _placed(config: DaemonConfig) -> DaemonConfig:
    """``config`` with the sockets that follow from other settings."""
    return replace(
        config,
        grpc=replace(config.grpc, address=config.socket),
        ttrpc=replace(config.ttrpc, address=config.ttrpc_socket),
    )
