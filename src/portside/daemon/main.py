"""The daemon as a process: configuration in, signals out; what it serves is a ``Host``."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from importlib.util import find_spec
from pathlib import Path

from portside.daemon.config import DaemonConfig
from portside.daemon.host import Host
from portside.daemon.logs import configure
from portside.daemon.notify import notify
from portside.errors import from_oserror
from portside.version import __version__

log = logging.getLogger(__name__)

DRAIN = 5.0
"""Seconds that calls in progress get to finish when we are told to end."""


def serve(config: DaemonConfig) -> None:
    """Serve until SIGTERM or SIGINT; containers go on."""
    configure(config.debug.level, config.debug.format)
    for warning in config.warnings:
        log.warning("%s", warning)
    _set_oom_score(config.oom_score)
    _use_temporary_directory(config.temp)
    os.umask(0o027)
    if find_spec("uvloop") is None:
        asyncio.run(_serve(config))
    else:
        import uvloop

        uvloop.run(_serve(config))


def serve_plugin(
    type: str, address: str, *, root: Path | None, snapshotter: str, containerd: str, level: str = "info"
) -> None:
    """Serve one part of ours as a proxy plugin (``PluginHost.start``) until SIGTERM or SIGINT."""
    configure(level)
    os.umask(0o027)
    asyncio.run(_serve_plugin(type, address, root, snapshotter, containerd))


async def _serve_plugin(type: str, address: str, root: Path | None, snapshotter: str, containerd: str) -> None:
    from portside.daemon.plugin_host import PluginHost

    ending = _on_signals()
    host = await PluginHost.start(type, address, root=root, snapshotter=snapshotter, containerd=containerd)
    try:
        notify("READY=1")
        await ending.wait()
        notify("STOPPING=1")
    finally:
        await host.stop(DRAIN)


def _on_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    return ending


async def _serve(config: DaemonConfig) -> None:
    ending = _on_signals()
    log.info("portside %s: root %s, state %s", __version__, config.root, config.state)
    host = await Host.start(config)
    try:
        log.info("serving on %s", ", ".join([config.socket, *(f"{name}:{port}" for name, port in host.tcp_addresses)]))
        host.observability.listen_to_signals()
        _calm_collector()
        notify("READY=1")
        await ending.wait()
        notify("STOPPING=1")
        log.info("ending; containers go on")
    finally:
        await host.stop(DRAIN)


def _calm_collector() -> None:
    """What is loaded now stays: Python's cycle collector need not look at it again, nor so often at the rest.

    With a hundred thousand records a full round stops every call for 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _use_temporary_directory(path: str) -> None:
    """Ours and that of what we start: TMPDIR is inherited."""
    if not path:
        return
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise from_oserror(error, f"make temp {path}") from error
    os.environ["TMPDIR"] = path


def _set_oom_score(score: int) -> None:
    if not score:
        return
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError as error:
        log.warning("oom_score %d: %s", score, error.strerror)
