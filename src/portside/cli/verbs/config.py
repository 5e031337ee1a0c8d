"""``portside config``: the daemon's configuration printed, as containerd's command of that name does."""

from __future__ import annotations

import sys

from portside.cli.options import Option, UsageError, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "config",
    "default|dump|migrate",
    "Print all settings at their defaults (default), what a daemon would run with, imports merged in (dump), or the\n"
    "file alone in the newest version (migrate).",
    (
        Option("-c", "--config", value="FILE", help="configuration (/etc/portside/config.toml)"),
        Option("--config-version", value="N", help="write version 2, 3 or 4", default="4"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0 after printing; keys without effect are told on standard error."""
    what = arguments[0]
    if what not in ("default", "dump", "migrate"):
        raise UsageError(f"want default, dump or migrate, not {what!r}")
    if values["config_version"] not in ("2", "3", "4"):
        raise UsageError(f"--config-version {values['config_version']}: want 2, 3 or 4")
    version = int(values["config_version"])
    from pathlib import Path

    from portside.daemon import config_dump
    from portside.daemon.config import DEFAULT_FILE, load
    from portside.daemon.config_files import read
    from portside.engine.plugins import registered

    if what == "default":
        text = config_dump.default_text(registered(), version)
    elif what == "migrate":
        text = config_dump.migrated_text(read(Path(values["config"] or DEFAULT_FILE)), version)
    else:
        plugins = registered()
        config = load(Path(values["config"]) if values["config"] else None, plugins)
        for warning in config.warnings:
            print(f"portside config: {warning}", file=sys.stderr)
        text = config_dump.dump_text(config, plugins, version)
    print(text, end="")
    return 0
