"""``portside daemon``: the daemon, with the flags of containerd, so that what starts that can start this."""

from __future__ import annotations

import os

from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

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
    from dataclasses import replace
    from pathlib import Path

    from portside.cli.options import UsageError
    from portside.daemon import config as configuration
    from portside.engine.plugins import registered
    from portside.errors import FailedPrecondition

    if os.geteuid() != 0:
        raise FailedPrecondition("needs root: namespaces, mounts, control groups")

    config = configuration.load(Path(values["config"]) if values["config"] else None, registered())
    if values["log_level"]:
        if values["log_level"] not in configuration.LEVELS:
            raise UsageError(f"--log-level {values['log_level']}: want one of {', '.join(configuration.LEVELS)}")
        config = replace(config, debug=replace(config.debug, level=values["log_level"]))
    if values["address"]:
        config = replace(config, grpc=replace(config.grpc, address=values["address"].removeprefix("unix://")))
    # Absolute: the daemon must not depend on where it was started.
    if values["root"]:
        config = replace(config, root=Path(values["root"]).absolute())
    if values["state"]:
        config = replace(config, state=Path(values["state"]).absolute())
    from portside.daemon.main import serve

    serve(config)
    return 0
