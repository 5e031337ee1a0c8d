"""A typed value whose content we do not look at (google.protobuf.Any), and the type URLs that travel in one."""

from __future__ import annotations

from dataclasses import dataclass

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
LINUX_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
RUNC_OPTIONS = "containerd.runc.v1.Options"
METRICS_V1 = "io.containerd.cgroups.v1.Metrics"
METRICS_V2 = "io.containerd.cgroups.v2.Metrics"


@dataclass(frozen=True, slots=True)
class AnyMessage:
    """``value`` is JSON for ``types.containerd.io/…``, protobuf otherwise; it is stored and handed on as it came."""

    type_url: str
    value: bytes

    @property
    def type_name(self) -> str:
        """The type URL without ``type.googleapis.com/``, which some peers write and others do not."""
        return self.type_url.removeprefix("type.googleapis.com/")
