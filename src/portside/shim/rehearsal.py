"""The zygote plays a shim's day a few times before it forks real ones, so that they need not learn anything.

The interpreter writes into what it runs: it specialises code that was run a few times, numbers types, remembers where
attributes were found. In a shim each such write costs a page of memory that was shared; done here, it is shared by all.
Measured: 2.9 MB a shim without it.

It is a play: nothing is forked, no container is made, and what would be (a maker's answer, a process's end) is told.
The rest is real: a loop, a socket with a peer, a queue of events with a daemon, a record in a directory of its own.
"""

from __future__ import annotations

import _socket
import json
import os

from portside.errors import PortsideError
from portside.linux.process import dumpable
from portside.runtime.plan import root_plan
from portside.runtime.program import Program
from portside.runtime.spec import Spec
from portside.shim import keeper, record
from portside.shim.loop import READ, Loop
from portside.shim.outbox import Outbox
from portside.shim.rpc import Connection, Server
from portside.shim.service import SERVICES, TaskService
from portside.shim.shared import Shim
from portside.wire.codec import encode
from portside.wire.tables import containerd_task
from portside.wire.ttrpc.connection import Request, TtrpcConnection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from portside.shim.maker import Made

ROUNDS: Final = 20
"""CPython specialises a function's code after eight calls; what is called once in a round has its share, too."""
_ID: Final = "rehearsal"
_CAPABILITIES: Final = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_MKNOD",
]
_SPEC: Final = json.dumps(
    {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": ["sh"],
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "play",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "cgroupsPath": "/play/play",
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1 << 30}},
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/sys", "/proc/irq"],
        },
    }
)


def rehearse(directory: str) -> None:
    """Play ``ROUNDS`` days in ``directory``, which is made and removed. OSError if that cannot be."""
    os.mkdir(directory, 0o700)
    try:
        for _ in range(ROUNDS):
            dumpable()
            record.start_time(os.getpid())
            _play_keeper()
            _play_runtime()
            _Day(directory).play()
    finally:
        for name in (record.NAME, f".{record.NAME}"):
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                pass
        os.rmdir(directory)


class _Day:
    """One shim, one task, from Connect to Shutdown."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._errors: list[BaseException] = []
        self._loop = Loop(self._errors.append)
        self._channel: _socket.socket | None = None
        self._outbox = Outbox(self._loop, "", "play")
        self._shim = Shim(self._loop, self._outbox, "play", "")
        self._shim.make = self._make
        self._service = TaskService(self._shim, _nothing, _nothing)
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._server = Server(self._loop, listener, self._service.handle)
        self._peer = self._connect()
        self._client = TtrpcConnection(client=True)
        self._daemon = self._connect_outbox()

    def play(self) -> None:
        """The day. What goes wrong in a play is nobody's business."""
        try:
            self._acts()
        except (OSError, PortsideError):
            pass
        finally:
            for task in self._service.tasks.values():
                task.close()
            for end in (self._peer, self._channel, self._daemon):
                if end is not None:
                    end.close()
            self._server.close()
            self._outbox.close()
            self._loop.close()

    def _acts(self) -> None:
        mount = {
            "type": "overlay",
            "source": "overlay",
            "options": ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l"],
        }
        self._call("Connect", id=_ID)
        self._call("Create", id=_ID, bundle=self._directory, rootfs=[mount])
        self._call("Start", id=_ID)
        assert self._channel is not None
        self._channel.close()  # as init does by becoming its program
        self._turn()
        self._call("State", id=_ID)
        self._call("Wait", id=_ID)
        self._call("Connect", id=_ID)
        self._call("Exec", id=_ID, exec_id="e", spec={"type_url": "p", "value": b"{}"})
        task = self._service.tasks[_ID]
        self._call("Start", id=_ID, exec_id="e")
        self._call("Wait", id=_ID, exec_id="e")
        task.process_ended(task.process("e"), 0, 1)
        self._call("Delete", id=_ID, exec_id="e")
        task.process_ended(task.init, 0, 1)
        self._call("State", id=_ID)

    def _connect(self) -> _socket.socket:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        theirs.setblocking(False)
        self._server.connections.add(Connection(self._loop, theirs, self._server))
        return ours

    def _connect_outbox(self) -> _socket.socket:
        """A daemon that acknowledges every event."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        theirs.setblocking(False)
        self._outbox.attach(theirs)
        protocol = TtrpcConnection(client=False)

        def heard(_ready: int) -> None:
            for event in protocol.receive(ours.recv(65536)):
                if isinstance(event, Request):
                    protocol.respond(event.stream_id, b"")
            ours.send(protocol.take())

        self._loop.watch(ours.fileno(), READ, heard)
        return ours

    def _call(self, method: str, **fields: Any) -> None:
        request = containerd_task.SERVICES[SERVICES[0]][method][0]
        self._client.request(SERVICES[0], method, encode(request, fields), timeout_ns=1, metadata={"k": "v"})
        self._peer.send(self._client.take())
        self._turn()

    def _turn(self) -> None:
        for _ in range(4):
            self._loop.soon(_nothing)  # so that it does not wait
            self._loop.turn()

    def _make(
        self, _work: Callable[[], Made], _undo: Callable[[], None], done: Callable[[Made | PortsideError], None]
    ) -> None:
        """What a maker answers: a container whose init we are, or an exec."""
        pidfd = os.pidfd_open(os.getpid())
        facts: dict[str, Any] = {"pid": os.getpid(), "console": False}
        if self._channel is not None:
            done((facts, [pidfd]))
            return
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        self._channel = ours
        facts |= {
            "cgroup": "/portside", "namespaces": {"pid": ""}, "hooks": False, "keyring": "", "channel": True,
            "direct": True, "shared_pids": False, "rootfs": {"mounted": [], "path": "", "slow": False},
        }  # fmt: skip
        done((facts, [pidfd, theirs.detach()]))


def _play_runtime() -> None:
    """What makers do before they clone: they begin as copies of a shim, and finish the sooner the more is known."""
    spec = Spec(json.loads(_SPEC))
    root_plan(spec, "/")
    Program(spec.process, None, "", spec.personality, False)


def _play_keeper() -> None:
    """A night: something to wake up for, and a message from a worker."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    quiet, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    quiet.setblocking(False)
    theirs.send(b"message")
    keeper.sleep(quiet, ours.fileno(), [(ours.fileno(), READ)], 1.0)
    while keeper.receive(ours, 4096) is not None:
        pass
    for end in (ours, theirs, quiet, other):
        end.close()


def _nothing() -> None:
    """For what a play does not need."""
