"""The zygote plays a shim's day a few times before it forks real ones, so that they need not learn anything.

The interpreter writes into what it runs: it specialises code that was run a few times, numbers types, remembers where
attributes were found. In a shim each such write costs a page of memory that was shared; done here, it is shared by all.
Measured: a shim asleep holds 0.4 MB of its own with it; 0.9 MB when its keeper was not rehearsed.

It is a play: no container is made, and what a new process would say, and its end, is told. The rest is real: a loop, a
socket with a peer, a queue of events with a daemon, a record in a directory of its own, a keeper with workers.
"""

from __future__ import annotations

import _socket
import json
import os

from portside.errors import PortsideError
from portside.linux.process import dumpable, set_child_subreaper
from portside.runtime.dialogue import READY, channel_pair
from portside.runtime.maker import Child, Undo
from portside.runtime.making import Creation, Execution
from portside.runtime.plan import root_plan
from portside.runtime.program import Program
from portside.shim import keeper, record
from portside.shim import main as shim
from portside.shim.config import Config
from portside.shim.held import HeldContainer
from portside.shim.loop import READ, Loop
from portside.shim.outbox import Outbox
from portside.shim.recipe import Recipe
from portside.shim.rootfs import Plan
from portside.shim.rpc import Connection, Server
from portside.shim.service import SERVICES, TaskService
from portside.shim.shared import Shim
from portside.wire.codec import encode
from portside.wire.tables import containerd_task
from portside.wire.ttrpc.connection import Request, TtrpcConnection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from portside.shim.rootfs import Rootfs
    from portside.shim.stdio import Streams

ROUNDS: Final = 20
"""CPython specialises a function's code after eight calls; what is called once in a round has its share, too."""
KEEPER_ROUNDS: Final = 10
"""The same for the keeper, whose rounds take longer and are of the same calls throughout."""
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
        for _ in range(KEEPER_ROUNDS):
            _play_keeper(directory)
        for _ in range(ROUNDS):
            dumpable()
            record.start_time(os.getpid())
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
        self._outbox = Outbox(self._loop, "", "play")
        self._shim = Shim(self._loop, self._outbox, "play", "")
        self._shim.recipe = _Play
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
            for end in (self._peer, self._daemon):
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


class _Play(Recipe):
    """Makes what it is asked for up to the clone; the new process, which says what it has to at once, are we."""

    __slots__ = ()

    def begin_create(self, streams: Streams, rootfs: Rootfs) -> tuple[HeldContainer, Creation, dict[str, Any]]:
        """A container whose first process we are."""
        container = HeldContainer.prepare(_ID, self.bundle, json.loads(_SPEC))
        Plan(self._mounts[0])
        root_plan(container.spec, "/")
        streams.child_fds(True)
        creation = Creation(container, _speaker(), Undo(), "play")
        return container, creation, {"direct": True, "shared_pids": False}

    def begin_exec(self, container: HeldContainer, process: bytes, streams: Streams) -> Execution:
        """A process that we are."""
        streams.child_fds(False)
        Program(container.spec.process, None, "", container.spec.personality, False)
        return Execution(container, _speaker(), Undo(), "play", None)


def _speaker() -> Child:
    """A child that is ready, and gone right after: its execve."""
    ours, theirs = channel_pair()
    theirs.send(READY)
    theirs.close()
    return Child(os.getpid(), os.pidfd_open(os.getpid()), ours)


def _play_keeper(directory: str) -> None:
    """The keeper's life, with real workers: one that falls asleep at once and is woken by the clock, and a last one."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    config = Config("play", _ID, directory, f"{directory}/no-such-socket")
    keeper.send_shim(ours, bytes(keeper.NUMBER) + config.encode(), listener.fileno())
    wake = shim.be_keeper(theirs)
    if wake is not None:
        _play_worker(wake)
    ours.close()
    listener.close()
    os.chdir("/")
    set_child_subreaper(False)


def _play_worker(wake: keeper.Wake) -> None:
    """Never returns."""
    try:
        if not wake.state:
            _config, listener = wake.shim()
            keeper.fall_asleep(wake.channel, b"{}", [listener], bytes([READ]), 0.0)
    finally:
        keeper.leave(0)


def _nothing() -> None:
    """For what a play does not need."""
