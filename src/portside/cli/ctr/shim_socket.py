"""Where a shim's socket is: said by the command line, written in its bundle, or computed as containerd does."""

from __future__ import annotations

import hashlib
import os

from portside.cli.ctr.command import Session
from portside.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.ctr.grammar import Values

_SOCKETS = "/run/containerd/s"
_TASKS = "io.containerd.runtime.v2.task"
_MAX_ADDRESS = 4096


def candidates(session: Session, values: Values) -> list[str]:
    """Paths to try, likeliest first; UsageError if neither ``--id`` nor ``--shim-address`` says which shim."""
    if not values["id"] and not values["shim_address"]:
        raise UsageError("want the shim's --id or --shim-address")
    found = [values["shim_address"].removeprefix("unix://")] if values["shim_address"] else []
    if values["id"]:
        found += [*_written(session, values["id"]), hashed(session, values["id"])]
    return found


def _written(session: Session, id: str) -> list[str]:
    """What the bundle says, if the server keeps its state beside its socket, as both ours and containerd do."""
    state = os.path.dirname(session.address)
    path = os.path.join(state, _TASKS, session.namespace, id, "address")
    try:
        with open(path, encoding="utf-8") as file:
            return [file.read(_MAX_ADDRESS).strip().removeprefix("unix://")]
    except OSError:
        return []


def hashed(session: Session, id: str, *, debug: bool = False) -> str:
    """containerd's rule: the digest of the server's address, the namespace and the id."""
    text = os.path.join(session.address, session.namespace, id, *(("debug",) if debug else ()))
    return f"{_SOCKETS}/{hashlib.sha256(text.encode()).hexdigest()}"
