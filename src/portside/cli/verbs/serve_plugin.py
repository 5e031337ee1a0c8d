"""``portside serve-plugin``: a part of ours as a proxy plugin of somebody else's containerd."""

from __future__ import annotations

from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "serve-plugin",
    "snapshot|content|diff|sandbox",
    "Serve a part of ours on a socket of its own, for [proxy_plugins] of containerd.",
    (
        Option("-a", "--address", value="SOCKET", help="where to serve"),
        Option("--root", value="DIR", help="where it keeps what is given to it; this plugin's alone"),
        Option("--snapshotter", value="NAME", default="overlayfs", help="overlayfs or native"),
        Option("--containerd", value="SOCKET", help="whose content a differ works on"),
        Option("-l", "--log-level", value="LEVEL", default="info", help="trace, debug, info, warn, error …"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 after SIGTERM."""
    from pathlib import Path

    from portside.cli.options import UsageError
    from portside.daemon.config import LEVELS
    from portside.daemon.main import serve_plugin

    if values["log_level"] not in LEVELS:
        raise UsageError(f"--log-level {values['log_level']}: want one of {', '.join(LEVELS)}")
    if not values["address"]:
        raise UsageError("--address is wanted: the socket where containerd finds the plugin")
    serve_plugin(
        arguments[0],
        values["address"].removeprefix("unix://"),
        root=Path(values["root"]).absolute() if values["root"] else None,
        snapshotter=values["snapshotter"],
        containerd=values["containerd"],
        level=values["log_level"],
    )
    return 0
