"""Handing a seccomp notify descriptor to whoever answers for the container (runtime-spec config-linux.md, *Seccomp*).

The agent listens on the unix socket ``listenerPath``; it gets one message, the ContainerProcessState as JSON, and with
it the descriptor. What belongs here: that message. The filter itself is ``linux.seccomp``'s.
"""

from __future__ import annotations

import _socket
import array
import json
import struct

from portside.errors import InvalidArgument
from portside.runtime.failure import RuntimeFailure
from portside.runtime.fields import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Seconds that the agent may take to accept, and to take the message.
PATIENCE = 5.0
# What a process still has to do under its filter: an agent that is not there yet could not answer for these.
_OUR_CALLS = frozenset(("sendmsg", "close", "capset", "execve"))


class Listener:
    """Where to send the descriptor, and what to say. None of the system calls that we need may be asked about."""

    __slots__ = ("metadata", "path")

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self.path = text(profile, "listenerPath", "linux.seccomp")
        self.metadata = text(profile, "listenerMetadata", "linux.seccomp")
        if not self.path:
            raise InvalidArgument("linux.seccomp.listenerPath: is required with SCMP_ACT_NOTIFY")
        if profile.get("defaultAction") == "SCMP_ACT_NOTIFY":
            raise InvalidArgument("linux.seccomp.defaultAction: everything cannot be SCMP_ACT_NOTIFY")
        for rule in profile.get("syscalls") or []:
            asked = _OUR_CALLS.intersection(rule["names"]) if rule.get("action") == "SCMP_ACT_NOTIFY" else ()
            if asked:
                raise InvalidArgument(f"linux.seccomp.syscalls: {min(asked)} cannot be SCMP_ACT_NOTIFY")

    def hand_over(self, fd: int, pid: int, state: bytes) -> None:
        """Send ``fd`` for process ``pid`` of the container with ``state``, its JSON; ``fd`` stays the caller's."""
        message = {
            "ociVersion": json.loads(state)["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self.metadata,
            "state": json.loads(state),
        }
        agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            # Not settimeout: a socket that does not block does not wait for room among those to be accepted.
            seconds, rest = divmod(PATIENCE, 1)
            patience = struct.pack("ll", int(seconds), int(rest * 1e6))
            agent.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, patience)
            agent.connect(self.path)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [fd]))]
            agent.sendmsg([json.dumps(message).encode()], rights)
        except OSError as error:
            raise RuntimeFailure.of("hand the seccomp listener over", error, self.path) from error
        finally:
            agent.close()
