"""A container of our own runtime, as the shim holds it.

The shim keeps what its calls need: the control group, a pidfd, the channel that starts init, and of the spec only its
namespaces. What needs the whole spec (an exec, hooks) has it read again (``complete``) unless a worker still has it
from making the container. This is the one place that knows the inside of ``runtime.container.Container``.
"""

from __future__ import annotations

import _socket

from portside.linux.cgroups import Cgroup
from portside.runtime import dialogue
from portside.runtime.container import Container, filters
from portside.runtime.failure import RuntimeFailure
from portside.runtime.listener import Listener
from portside.runtime.process import Process
from portside.runtime.spec import HOOK_KINDS, Spec
from portside.shim.loop import close_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from portside.shim.frozen import Freezing


class Facts:
    """Of a spec, what a held container needs; no hooks."""

    __slots__ = ("hooks", "namespaces")

    def __init__(self, namespaces: dict[str, str]) -> None:
        self.namespaces = namespaces
        self.hooks: dict[str, list[Any]] = {kind: [] for kind in HOOK_KINDS}


class HeldContainer(Container):
    """Made by ``begin_create`` in one worker, kept over its sleep as ``facts`` and by ``freeze``."""

    __slots__ = ()

    def facts(self) -> dict[str, Any]:
        """What ``take_over`` takes; no descriptors."""
        return {
            "pid": self.init.pid,
            "cgroup": self.cgroup.path,
            "namespaces": self.spec.namespaces,
            "hooks": any(self.spec.hooks.values()),
            "keyring": self._keyring,
        }

    @classmethod
    def take_over(cls, id: str, bundle: str, facts: Mapping[str, Any], pidfd: int, channel: int) -> HeldContainer:
        """The container again, owning ``pidfd`` and ``channel`` (-1 if it was started)."""
        known: Any = Facts(facts["namespaces"])
        made = cls(id, bundle, known, Cgroup.open(facts["cgroup"]), None, facts["keyring"])
        made.init = Process(facts["pid"], pidfd)
        made._pidfd = pidfd
        if channel >= 0:
            made._channel = dialogue.Channel(_socket.socket(fileno=channel))
        return made

    @property
    def is_complete(self) -> bool:
        """Whether it knows everything that its spec says."""
        return isinstance(self.spec, Spec)

    def complete(self, spec: dict[str, Any], cache_dir: str) -> None:
        """Let it know its whole spec, the parsed config.json."""
        self.spec = Spec(spec)
        if self.spec.seccomp:
            self._filter = filters(cache_dir).get(self.spec.seccomp)
            if self._filter.notifies:
                self._listener = Listener(self.spec.seccomp)

    def delete(self, force: bool = False) -> None:
        """As the runtime has it, but for the hooks, which are not run in the shim itself (``run_late_hooks``)."""
        if not self._deleted:
            self.remove(force)

    def freeze(self, ice: Freezing) -> list[int]:
        """See ``frozen.py``: the places of what ``take_over`` takes."""
        channel = self._channel.fileno() if self._channel is not None else -1
        return [ice.put(self._pidfd), ice.put(channel)]

    def close(self) -> None:
        """Let go of the container without ending it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        fd, self._pidfd = self._pidfd, -1
        close_fd(fd)

    def run_late_hooks(self, kind: str) -> None:
        """The hooks ``poststart`` or ``poststop``, of a complete container; what goes wrong is no failure."""
        status, pid = ("running", self.init.pid) if kind == "poststart" else ("stopped", 0)
        try:
            self._run_hooks((kind,), status, pid)
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))
