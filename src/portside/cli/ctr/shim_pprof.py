"""``ctr shim pprof``: what a shim's debug socket serves below ``/debug/pprof/``; ours have none."""

from __future__ import annotations

from portside.cli.ctr.command import Session
from portside.cli.ctr.pprof import profile_of
from portside.cli.ctr.shim_socket import hashed
from portside.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.ctr.grammar import Values


def _shim_socket(session: Session, values: Values) -> str:
    if not values["id"]:
        raise UsageError("want the shim's --id")
    return hashed(session, values["id"], debug=True)


block = profile_of("block", _shim_socket)
goroutines = profile_of("goroutine", _shim_socket, debug=2)
heap = profile_of("heap", _shim_socket)
profile = profile_of("profile", _shim_socket, duration=30.0)
threadcreate = profile_of("threadcreate", _shim_socket)
trace = profile_of("trace", _shim_socket, duration=5.0)
