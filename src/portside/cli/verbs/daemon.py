"""``portside daemon``: the daemon, with the flags of containerd, so that what starts that can start this."""

from __future__ import annotations

import os

from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context
    from portside.daemon.config import DaemonConfig

VERB = Verb(
    "daemon",
    "",
    "Run the daemon in the foreground; SIGTERM ends it, containers go on.",
    (
        Option("-c", "--config", value="FILE", help="configuration (/etc/portside/config.toml)"),
        Option("-a", "--address", value="SOCKET", help="where to serve"),
        Option("--root", value="DIR", help="what must survive a reboot (/var/lib/portside)"),
        Option("--state", value="DIR", help="what need not (/run/portside)"),
        Option("-l", "--log-level", value="LEVEL", help="trace, debug, info, warn, error, fatal or panic"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 after SIGTERM."""
    from pathlib import Path

    from portside.daemon.config import load
    from portside.engine.plugins import registered
    from portside.errors import FailedPrecondition

    if os.geteuid() != 0:
        raise FailedPrecondition("needs root: namespaces, mounts, control groups")
    config = with_flags(load(Path(values["config"]) if values["config"] else None, registered()), values)
    from portside.daemon.main import serve

    serve(config)
    return 0


def with_flags(config: DaemonConfig, values: dict[str, Any]) -> DaemonConfig:
    """``config`` with what the flags say instead; UsageError for a level that there is not."""
    from dataclasses import replace
    from pathlib import Path

    from portside.cli.options import UsageError
    from portside.daemon.config import LEVELS

    if values["log_level"]:
        if values["log_level"] not in LEVELS:
            raise UsageError(f"--log-level {values['log_level']}: want one of {', '.join(LEVELS)}")
        config = replace(config, debug=replace(config.debug, level=values["log_level"]))
    if values["address"]:
        config = replace(config, grpc=replace(config.grpc, address=values["address"].removeprefix("unix://")))
    # Absolute: the daemon must not depend on where it was started.
    if values["root"]:
        config = replace(config, root=Path(values["root"]).absolute())
    if values["state"]:
        config = replace(config, state=Path(values["state"]).absolute())
    return config
