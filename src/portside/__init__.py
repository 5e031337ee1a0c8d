"""portside: a container engine in Python behind containerd's own API.

Only two names matter to most callers, ``connect`` (a daemon, ours or upstream containerd) and ``Engine`` (no
daemon), and their synchronous faces ``connect_sync`` and ``EngineSync``. They are imported when first asked for: a
shim or a command imports this package too, and pays nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.sdk import Engine as Engine
    from portside.sdk import EngineSync as EngineSync
    from portside.sdk import connect as connect
    from portside.sdk import connect_sync as connect_sync

__all__ = ["Engine", "EngineSync", "connect", "connect_sync"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from portside import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
