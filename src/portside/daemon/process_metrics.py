"""The daemon as a process, from proc(5), under the names that every client library of Prometheus uses."""

from __future__ import annotations

import os
import platform
import resource
import time

from portside.daemon.exposition import Exposition, label_text
from portside.version import __version__

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def collect_process(out: Exposition) -> None:
    """Write the figures of this process; takes some twenty microseconds, and no disk is asked."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # from the state on, number 3 in proc_pid_stat(5)
    seconds = (int(fields[11]) + int(fields[12])) / _TICKS
    out.counter("process_cpu_seconds", "Total user and system CPU time spent in seconds.", seconds)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    out.gauge("process_max_fds", "Maximum number of open file descriptors.", soft)
    out.gauge("process_open_fds", "Number of open file descriptors.", len(os.listdir("/proc/self/fd")) - 1)
    out.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", int(fields[21]) * _PAGE)
    out.gauge("process_start_time_seconds", _START_HELP, _boot_time() + int(fields[19]) / _TICKS)
    out.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", int(fields[20]))


_START_HELP = "Start time of the process since unix epoch in seconds."


def collect_build(out: Exposition) -> None:
    """Which portside this is, under containerd's name, and on which Python."""
    labels = label_text({"revision": "", "version": __version__})
    out.counter("containerd_build_info", "containerd build information", 1, labels)
    python = {"implementation": platform.python_implementation(), "version": platform.python_version()}
    out.gauge("python_info", "Python platform information", 1, label_text(python))


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
