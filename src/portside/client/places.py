"""Where on the server's machine the verbs keep what is theirs: logs of containers, and their fifos (``fifos``).

The one place where the paths of logs are computed. A server of ours tells its log directory by introspection and writes
lines (``log://``); another containerd writes plain files (``file://``) below a directory of our own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from portside.client.fifos import fifo_directory
from portside.core.introspection import Introspection
from portside.core.plugin import VERBS

MAX_LOG = 64 << 20
"""Bytes of a log before it is rotated; one older file is kept."""
LOG_PLUGIN = f"{VERBS}.logs"
LOG_EXPORT = "log-directory"
"""The key under which our server's plugin of type ``VERBS`` exports its log directory."""


@dataclass(frozen=True, slots=True)
class Places:
    """``log_directory`` is on the server's machine, ``fifo_directory`` on ours, which must be the same one."""

    log_directory: str
    fifo_directory: str
    lines: bool = True
    """Whether the server's shims understand ``log://``."""

    def log_path(self, namespace: str, id: str) -> str:
        """The log of one container."""
        return os.path.join(self.log_directory, namespace, id, "log")

    def log_uri(self, path: str, *, max_size: int = 0, stdout: str = "", stderr: str = "") -> str:
        """The stream URI for a log; ``stdout`` and ``stderr`` are fifos that get a live copy (our shims only)."""
        if not self.lines:
            return f"file://{path}"
        query = [f"max-size={max_size}"] if max_size else []
        query += [f"attach-{name}={_quote(fifo)}" for name, fifo in (("stdout", stdout), ("stderr", stderr)) if fifo]
        return f"log://{_quote(path)}" + ("?" + "&".join(query) if query else "")


def log_directory(root: str) -> str:
    """The log directory of an engine of ours with this root: one directory for each plugin, named by its URI."""
    return os.path.join(root, LOG_PLUGIN)


def foreign_log_directory() -> str:
    """Where logs go when the server is another containerd."""
    if os.geteuid() == 0:
        return "/var/lib/portside/foreign-logs"
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "portside", "logs")


async def discover(introspection: Introspection) -> Places:
    """The places that fit this server."""
    for plugin in await introspection.plugins([f"type=={VERBS}"]):
        if LOG_EXPORT in plugin.exports:
            return Places(plugin.exports[LOG_EXPORT], fifo_directory())
    return Places(foreign_log_directory(), fifo_directory(), lines=False)


def _quote(path: str) -> str:
    """Percent-encode what a URI's path or query gives a meaning to."""
    return "".join(
        character if character.isascii() and (character.isalnum() or character in "/._-~") else _percent(character)
        for character in path
    )


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
