"""What a shim remembers of its task on disk: ``state.json`` in the bundle.

Written by the shim alone, whole each time: to ``.state.json`` and renamed, so that a reader sees one version or the
other. An exit is in it before anybody is told. It lies below ``state``, which need not survive a reboot and neither do
the processes it speaks of, so it is not synced: a killed process loses nothing that it had written.

    {"version": 1, "namespace": …, "id": …, "shim": {"pid": …, "start": …}, "cgroup": …,
     "runtime": [an external runtime's command and options],
     "processes": {"": {"pid": …, "start": …, "status": …, "exit_status": …, "exited_ns": …,
                        "stdin": …, "stdout": …, "stderr": …, "terminal": …}, "<exec id>": …}}

``start`` is the kernel's start time of the process (proc_pid_stat(5), field 22), which tells it from a later one with
the same number. The daemon reads it when a shim no longer answers.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

NAME: Final = "state.json"
VERSION: Final = 1
MAX_RECORD: Final = 64 << 20
"""Bytes of a record that are read."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


def read_file(path: str, limit: int) -> bytes:
    """The beginning of a file, without Python's file objects, whose use touches much memory that shims share."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = chunk = os.read(fd, limit)
        while chunk and len(data) < limit:
            chunk = os.read(fd, limit - len(data))
            data += chunk
        return data
    finally:
        os.close(fd)


def write(bundle: str, record: dict[str, Any]) -> None:
    """Replace the record of ``bundle`` (OSError)."""
    private = f"{bundle}/.{NAME}"
    fd = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        data = _encode(record).encode()
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    os.rename(private, f"{bundle}/{NAME}")


def read(bundle: str) -> dict[str, Any] | None:
    """The record of ``bundle``; None if there is none that makes sense."""
    try:
        record = json.loads(read_file(f"{bundle}/{NAME}", MAX_RECORD))
    except (OSError, ValueError, RecursionError):
        return None
    if (
        not isinstance(record, dict)
        or record.get("version") != VERSION
        or not isinstance(record.get("processes"), dict)
    ):
        return None
    return record


def start_time(pid: int) -> int:
    """When ``pid`` was started, in clock ticks since boot; 0 if there is no such process, or it is dead already."""
    try:
        fields = read_file(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
