"""What is in use here and will not be for ever: told by Introspection.Server, by ``ctr deprecations list`` and by CRI.

The names are containerd's, as is what they mean. Clients print each of them with every command, so what goes in
containerd and stays here (control groups of version 1) is not told.

Source: containerd RELEASES.md, deprecated features.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from portside.core.introspection import Deprecation

PREFIX = "io.containerd.deprecation/"
_IMAGES, _RUNTIME = "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"
MESSAGES = {
    "cri-registry-mirrors": f"{_IMAGES}: registry.mirrors gives way to hosts.toml files; set registry.config_path",
    "cri-registry-auths": f"{_IMAGES}: registry.auths gives way to credentials of the kubelet",
    "cri-registry-configs": f"{_IMAGES}: registry.configs gives way to hosts.toml files; set registry.config_path",
    "cri-cni-bin-dir": f"{_RUNTIME}: cni.bin_dir gives way to the list cni.bin_dirs",
    "enable-cdi": f"{_RUNTIME}: enable_cdi goes; CDI stays on",
    "tracing-otlp-config": "the table of the OTLP exporter gives way to the variables OTEL_EXPORTER_OTLP_…",
    "tracing-service-config": "the table of tracing gives way to OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER",
}
"""By name without prefix."""

_SETTINGS = {
    "cri-registry-mirrors": (_IMAGES, "registry", "mirrors"),
    "cri-registry-auths": (_IMAGES, "registry", "auths"),
    "cri-registry-configs": (_IMAGES, "registry", "configs"),
    "cri-cni-bin-dir": (_RUNTIME, "cni", "bin_dir"),
    "enable-cdi": (_RUNTIME, "enable_cdi"),
    "tracing-otlp-config": ("io.containerd.tracing.processor.v1.otlp", "endpoint"),
    "tracing-service-config": ("io.containerd.internal.v1.tracing", "service_name"),
}


class Deprecations:
    """Those that were met since the engine was opened."""

    def __init__(self, plugins: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """``plugins`` are the configuration's tables."""
        self._met: dict[str, int] = {}
        for name, path in _SETTINGS.items():
            if _setting(plugins or {}, path):
                self.note(name)

    def note(self, name: str) -> None:
        """It was met, now; ``name`` is one of ``MESSAGES``."""
        self._met[name] = time.time_ns()

    def list(self) -> Sequence[Deprecation]:
        """By name."""
        return [Deprecation(f"{PREFIX}{name}", MESSAGES[name], when) for name, when in sorted(self._met.items())]


def _setting(tables: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = tables
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
