"""Metrics as text: Prometheus' text format 0.0.4 and OpenMetrics 1.0.0, written family by family.

Families come in the order in which they were first named, whatever the order of their samples. What does not belong
here: where figures come from, and HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, as client libraries of Prometheus have them unless told otherwise."""


class Histogram:
    """Counts observations by size; belongs to one loop or thread."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float] = BUCKETS) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.sum += value
        for index, bound in enumerate(self.bounds):
            if value <= bound:
                self._counts[index] += 1
                return
        self._counts[-1] += 1

    def cumulative(self) -> list[tuple[float, int]]:
        """Upper bound and how many were not above it, the last one infinite."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, math.inf), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Exposition:
    """One answer in the making. Names of counters are given without ``_total``."""

    def __init__(self, openmetrics: bool = False) -> None:
        self._openmetrics = openmetrics
        self._families: dict[str, list[str]] = {}

    @property
    def content_type(self) -> str:
        """Of the answer."""
        return OPENMETRICS if self._openmetrics else TEXT

    def counter(self, name: str, help: str, value: float, labels: str = "") -> None:
        """A sample of a counter; ``labels`` is what ``label_text`` made."""
        lines = self._family(name, name if self._openmetrics else f"{name}_total", "counter", help)
        lines.append(f"{name}_total{_braced(labels)} {number(value)}")

    def gauge(self, name: str, help: str, value: float, labels: str = "") -> None:
        """A sample of a gauge."""
        self._family(name, name, "gauge", help).append(f"{name}{_braced(labels)} {number(value)}")

    def histogram(self, name: str, help: str, histogram: Histogram, labels: str = "") -> None:
        """A histogram's samples."""
        lines = self._family(name, name, "histogram", help)
        comma = "," if labels else ""
        for bound, count in histogram.cumulative():
            lines.append(f'{name}_bucket{{{labels}{comma}le="{_bound(bound, self._openmetrics)}"}} {count}')
        lines.append(f"{name}_sum{_braced(labels)} {number(histogram.sum)}")
        lines.append(f"{name}_count{_braced(labels)} {count}")

    def _family(self, key: str, name: str, kind: str, help: str) -> list[str]:
        lines = self._families.get(key)
        if lines is None:
            text = help.replace("\\", "\\\\").replace("\n", "\\n")
            if self._openmetrics:
                text = text.replace('"', '\\"')
            lines = self._families[key] = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        return lines

    def pieces(self) -> Iterator[bytes]:
        """The answer, a piece for each family, made as it is taken."""
        for lines in self._families.values():
            yield ("\n".join(lines) + "\n").encode()
        if self._openmetrics:
            yield b"# EOF\n"


def label_text(labels: Mapping[str, str]) -> str:
    """``a="b",c="d"``."""
    return ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, section 12.5.1) prefers OpenMetrics to plain text."""
    best = {"openmetrics": 0.0, "plain": 0.0}
    for part in accept.lower()[:1000].split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if kind == "application/openmetrics-text":
            best["openmetrics"] = max(best["openmetrics"], weight)
        elif kind in ("text/plain", "text/*", "*/*"):
            best["plain"] = max(best["plain"], weight)
    return best["openmetrics"] > 0 and best["openmetrics"] >= best["plain"]


def number(value: float) -> str:
    """As both formats have numbers."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _bound(value: float, openmetrics: bool) -> str:
    return repr(value) if openmetrics and math.isfinite(value) else number(value)


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
