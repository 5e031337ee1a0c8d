"""Parts of an engine that somebody else runs and serves over gRPC: proxy plugins.

What belongs here: what the stores need to know of such a part. What does not: connections and deadlines
(``engine/proxies.py``), the records kept of what is made there (``metadata/foreign.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from portside.core.snapshots import Snapshotter


@dataclass(frozen=True, slots=True)
class ForeignSnapshotter:
    """A snapshotter that keeps snapshots and records of its own, whose names it is given by us."""

    name: str
    """The plugin's id, which is also what it is called in requests to it."""
    bind: Callable[[str], Snapshotter]
    """It as a namespace asks for it; every call to it ends in time, with Unavailable or DeadlineExceeded if need be."""
