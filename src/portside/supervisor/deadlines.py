"""How long shims may take, where a configuration says so (``[timeouts]``, under containerd's names)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds; 0: what the code has."""

    load: float = 0.0
    """For a shim's answer when it is adopted."""
    shutdown: float = 0.0
    """For its end when its task is gone; then it is killed."""
    state: float = 0.0
    """For the state of a process, which our record can answer too."""

    @classmethod
    def from_timeouts(cls, timeouts: Mapping[str, float]) -> Deadlines:
        """From the table by name (``io.containerd.timeout.shim.load``); what is missing or not above 0 is left."""
        names = {"load": "shim.load", "shutdown": "shim.shutdown", "state": "task.state"}
        said = {field: timeouts.get(f"io.containerd.timeout.{name}", 0.0) for field, name in names.items()}
        return cls(**{field: seconds for field, seconds in said.items() if seconds > 0})
