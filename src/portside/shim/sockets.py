"""Addresses of unix sockets whose path is longer than the kernel takes."""

from __future__ import annotations

import os

MAX_PATH = 107
"""Bytes of a path in sockaddr_un (unix(7))."""


def connectable(path: str) -> tuple[str, int]:
    """``path`` as connect(2) and bind(2) take it, and a descriptor to close afterwards, or -1. OSError."""
    if len(os.fsencode(path)) <= MAX_PATH:
        return path, -1
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{directory}/{os.path.basename(path)}", directory
