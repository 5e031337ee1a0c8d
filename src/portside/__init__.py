"""portside: a container engine in Python behind containerd's own API.

Only two names matter to most callers, ``connect`` (a daemon, ours or upstream containerd) and ``Engine`` (no
daemon). They are imported when first asked for: a shim or a command imports this package too, and pays nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.sdk import Engine as Engine
    from portside.sdk import connect as connect

__all__ = ["Engine", "connect"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from portside import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
