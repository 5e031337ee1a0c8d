"""What the configuration says of parts below the daemon: proxy plugins, stream processors, image verifiers, timeouts.

Plain data; what a configuration file calls these things is known to ``daemon/config.py`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from portside.core.durations import Seconds


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a namespace uses that has no label for it; empty: what works best here (our ``io.portside.defaults.v1``)."""

    snapshotter: str = ""
    runtime: str = ""
    """Such as ``io.containerd.runc.v2``."""


@dataclass(frozen=True, slots=True)
class ProxyPlugin:
    """A plugin of ours that a process of somebody else serves over gRPC (containerd's ``[proxy_plugins.<name>]``)."""

    type: str
    """One of snapshot, content, diff, sandbox."""
    address: str
    """A unix socket's path, ``unix://`` allowed before it."""
    platform: str = ""
    """Which platform it is for, as ``linux/amd64``; empty: ours."""
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StreamProcessor:
    """A program that turns a layer of one media type into another (containerd's ``[stream_processors.<id>]``)."""

    accepts: Sequence[str]
    """Media types that it reads on its standard input."""
    returns: str
    """The media type that it writes to its standard output."""
    path: str
    """The program; a bare name is looked up in PATH."""
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    """``NAME=value``, added to the daemon's environment."""


@dataclass(frozen=True, slots=True)
class ImageVerifiers:
    """Programs that allow or deny the pull of an image (containerd's ``io.containerd.image-verifier.v1.bindir``)."""

    bin_dir: Path = Path("/opt/portside/image-verifier/bin")
    """Every executable file in it is asked, in the order of names; no directory: nobody is asked."""
    max_verifiers: int = 10
    """At most so many are asked; negative: all."""
    per_verifier_timeout: Seconds = 10.0
