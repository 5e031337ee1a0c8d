"""Telling that the kernel killed for want of memory, for as long as a container lives.

What the kernel tells, and how, is ``linux/cgroups/oom.py``'s.
"""

from __future__ import annotations

from portside.errors import PortsideError
from portside.linux.cgroups.oom import OomWatch, OomWatchV1, OomWatchV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.linux.cgroups import Cgroup
    from portside.shim.frozen import Freezing, Thawing, Values
    from portside.shim.loop import Loop


class OomTeller:
    """Calls ``tell`` for kills in one control group, from ``watch`` to ``close``."""

    __slots__ = ("_loop", "_tell", "_watch")

    def __init__(self, loop: Loop, tell: Callable[[], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._watch: OomWatch | None = None

    def watch(self, cgroup: Cgroup) -> None:
        """Begin. Without a memory controller nothing is ever told."""
        try:
            watch = cgroup.oom_watch()
        except (OSError, PortsideError):
            return
        self._take(watch)

    def close(self) -> None:
        """Tell what has not been told, and watch no longer. Harmless if nothing is watched."""
        watch, self._watch = self._watch, None
        if watch is not None:
            if watch.kills():
                self._tell()
            self._loop.forget(watch.fileno())
            watch.close()

    def freeze(self, ice: Freezing) -> Values | None:
        """See ``frozen.py``. A watch that was opened anew would miss what happened in between."""
        watch = self._watch
        if watch is None:
            return None
        values = dict(vars(watch))
        for name in ("_fd", "_control"):
            if name in values:
                values[name] = ice.put(values[name], watch.events if name == "_fd" else 0)
        return {"version": 1 if isinstance(watch, OomWatchV1) else 2, "values": values}

    def thaw(self, ice: Thawing, values: Values | None) -> None:
        """Go on with what was frozen."""
        if values is None:
            return
        kind = OomWatchV1 if values["version"] == 1 else OomWatchV2
        watch: OomWatch = kind.__new__(kind)
        for name, value in values["values"].items():
            setattr(watch, name, ice.take(value) if name in ("_fd", "_control") else value)
        self._take(watch)

    def _take(self, watch: OomWatch) -> None:
        self._watch = watch
        self._loop.watch(watch.fileno(), watch.events, self._happened)

    def _happened(self, _ready: int) -> None:
        watch = self._watch
        if watch is not None and watch.kills():
            self._tell()
        if watch is not None and watch.gone:
            self.close()
