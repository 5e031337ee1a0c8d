"""portside: a container engine in Python behind containerd's own API.

The library is ``portside.sdk``; its names are also here, and imported when first asked for: a shim or a command
imports this package too, and pays nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.sdk import Engine as Engine
    from portside.sdk import EngineSync as EngineSync
    from portside.sdk import RunOptions as RunOptions
    from portside.sdk import Volume as Volume
    from portside.sdk import connect as connect
    from portside.sdk import connect_sync as connect_sync

__all__ = ["Engine", "EngineSync", "RunOptions", "Volume", "connect", "connect_sync"]


def __getattr__(name: str) -> object:
    if name in __all__:
        # By name: the layers below import this package, and must not seem to import what is above them.
        return getattr(__import__("portside.sdk", fromlist=[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
