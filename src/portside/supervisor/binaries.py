"""The shims that other people make: which program a runtime's name stands for.

``io.containerd.kata.v2`` is ``containerd-shim-kata-v2``, found in PATH; an absolute path is the program itself. Source:
containerd docs/runtime-v2.md.
"""

from __future__ import annotations

import os
import re
import shutil

from portside.errors import InvalidArgument, NotFound, PermissionDenied

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


def resolve(runtime: str) -> str:
    """The path of the program; InvalidArgument for what is no name, NotFound if it is not installed."""
    if runtime.startswith("/"):
        if not os.path.isfile(runtime):
            raise NotFound(f"runtime {runtime[:200]}: there is no such file")
        if not os.access(runtime, os.X_OK):
            raise PermissionDenied(f"runtime {runtime[:200]}: it cannot be executed")
        return runtime
    match = _NAME.fullmatch(runtime)
    if match is None:
        raise InvalidArgument(
            f"runtime {runtime[:200]!r}: want a name like io.containerd.runc.v2, or the absolute path of a program"
        )
    program = f"containerd-shim-{match[1]}-{match[2]}"
    found = shutil.which(program)
    if found is None:
        raise NotFound(f"runtime {runtime}: its program {program} is not installed")
    return found
