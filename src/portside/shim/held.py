"""A container of our own runtime, made by a child (``maker.py``) and held by the shim.

The shim keeps what its calls need: the control group, a pidfd, the channel that starts init, and of the spec only its
namespaces. What needs the whole spec (an exec, hooks) reads it again, where it is needed. This is the one place that
knows the inside of ``runtime.container.Container``.
"""

from __future__ import annotations

import _socket

from portside.linux.cgroups import Cgroup
from portside.runtime import dialogue
from portside.runtime.container import Container, Process, _filters
from portside.runtime.failure import RuntimeFailure
from portside.runtime.listener import Listener
from portside.runtime.spec import HOOK_KINDS, Spec
from portside.shim.loop import close_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from portside.shim.frozen import Freezing


class Facts:
    """Of a spec, what a held container needs; no hooks."""

    __slots__ = ("hooks", "namespaces")

    def __init__(self, namespaces: dict[str, str]) -> None:
        self.namespaces = namespaces
        self.hooks: dict[str, list[Any]] = {kind: [] for kind in HOOK_KINDS}


class HeldContainer(Container):
    """Made by ``create`` in one process, handed to another by ``hand_over`` and ``take_over``."""

    __slots__ = ()

    def hand_over(self) -> tuple[dict[str, Any], list[int]]:
        """What ``take_over`` takes. The descriptors stay ours, the terminal not among them."""
        assert self._channel is not None
        facts = {
            "pid": self.init.pid,
            "cgroup": self.cgroup.path,
            "namespaces": self._spec.namespaces,
            "hooks": any(self._spec.hooks.values()),
            "keyring": self._keyring,
        }
        return facts, [self.init.pidfd, self._channel.fileno()]

    @classmethod
    def take_over(
        cls, id: str, bundle: str, facts: Mapping[str, Any], pidfd: int, channel: int = -1,
        spec: dict[str, Any] | None = None, cache_dir: str = "",
    ) -> HeldContainer:  # fmt: skip
        """The container again, owning ``pidfd`` and ``channel``; with ``spec`` (its config.json) as whole as made."""
        known: Any = Facts(facts["namespaces"])
        seccomp = None
        if spec is not None:
            known = Spec(spec)
            seccomp = _filters(cache_dir).get(known.seccomp) if known.seccomp else None
        made = cls(id, bundle, known, Cgroup.open(facts["cgroup"]), seccomp, facts["keyring"])
        if seccomp is not None and seccomp.notifies:
            made._listener = Listener(known.seccomp)
        made.init = Process(facts["pid"], pidfd)
        made._pidfd = pidfd
        if channel >= 0:
            made._channel = dialogue.Channel(_socket.socket(fileno=channel))
        return made

    def begin_start(self) -> int:
        """Tell init to go on; the descriptor that becomes readable when ``finish_start`` knows more."""
        assert self._channel is not None
        try:
            self._channel.send(dialogue.START)
        except dialogue.PeerGone:
            pass  # It was killed before; its end tells.
        return self._channel.fileno()

    @property
    def start_fd(self) -> int:
        """The same descriptor; -1 once the start is over."""
        return self._channel.fileno() if self._channel is not None else -1

    def finish_start(self, closing: Callable[[], None], listens: Callable[[int], None]) -> bool:
        """Whether init has become its program, or has died; False if neither yet. RuntimeFailure if it could not.

        ``closing`` is called before the descriptor is closed. ``listens`` gets a seccomp listener for the agent, and
        owns it.
        """
        assert self._channel is not None
        kind, payload = b"", b""
        try:
            kind, payload, fd = self._channel.receive(wait=False)
        except BlockingIOError:
            return False
        except dialogue.PeerGone:
            pass
        else:
            if kind == dialogue.LISTENER and fd >= 0:
                listens(fd)
                return False
        closing()
        self.end_start()
        if kind == dialogue.FAILED:
            raise dialogue.decode_failure(payload).within(f"start container {self.id}")
        return True

    def end_start(self) -> None:
        """Hear no more of it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def hand_listener_over(self, fd: int) -> None:
        """Give init's seccomp listener to the agent, from a container that is whole.

        RuntimeFailure if there is no agent; init, whom nobody would answer, is killed then.
        """
        if self._listener is not None:
            self._hand_over(self._listener, fd, self.init.pid)

    def freeze(self, ice: Freezing) -> list[int]:
        """See ``frozen.py``: the places of what ``take_over`` takes."""
        return [ice.put(self._pidfd), ice.put(self.start_fd)]

    def close(self) -> None:
        """Let go of the container without ending it."""
        self.end_start()
        fd, self._pidfd = self._pidfd, -1
        close_fd(fd)

    def run_late_hooks(self, kind: str) -> None:
        """The hooks ``poststart`` or ``poststop``, of a container that is whole; what goes wrong is no failure."""
        status, pid = ("running", self.init.pid) if kind == "poststart" else ("stopped", 0)
        try:
            self._run_hooks((kind,), status, pid)
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))
