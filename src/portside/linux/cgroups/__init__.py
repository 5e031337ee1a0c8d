"""Control groups of version 1, version 2 and hybrid layouts behind one class, ``Cgroup``.

``layout`` finds the hierarchies, ``limits_v1`` and ``limits_v2`` turn an OCI ``linux.resources`` object into writes,
``devices`` and ``bpf`` filter devices, ``stats_v1`` and ``stats_v2`` read figures, ``oom`` tells of kills for want of
memory. What a container is, and which path it gets by default, is not known here.
"""

from __future__ import annotations

from portside.linux.cgroups.cgroup import Cgroup
from portside.linux.cgroups.layout import Layout, check_path, layout
from portside.linux.cgroups.oom import OomWatch

__all__ = ["Cgroup", "Layout", "OomWatch", "check_path", "layout"]
