"""A shim's process, from the moment it is alone: forked by the zygote, or exec'ed where there is none.

What belongs here: what makes it a shim (session, subreaper, signals, descriptors), and its end. It goes on when the
daemon or the zygote dies, and ends when it is told to (Shutdown, with no task left), or when it has had neither a task
nor a peer for a minute, which is what a daemon leaves behind that died while it started us.

As a command, the fallback without a zygote: ``python -I -S -E main.py CONFIG FD``, CONFIG an encoded ``config.Config``
with newlines for its NUL bytes, FD the number of the listening socket.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # Isolated and without site: the package is where this file is.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import _socket
import fcntl
import json
import time

from portside.errors import PortsideError
from portside.linux import process as linux
from portside.linux import signals
from portside.linux.cgroups import Cgroup
from portside.shim import keeper
from portside.shim import outbox as outbox_module
from portside.shim import service as service_module
from portside.shim.config import Config
from portside.shim.frozen import Freezing, NotQuiet, Thawing
from portside.shim.loop import READ, Loop
from portside.shim.outbox import Outbox
from portside.shim.record import read_file
from portside.shim.rpc import Server
from portside.shim.service import TaskService
from portside.shim.shared import Shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

QUIET: Final = 0.5
"""Seconds without anything to do after which a worker goes to sleep."""
MAX_QUIET: Final = 16.0
"""The same for one that was woken soon after, several times."""
IDLE_TIMEOUT: Final = 60.0
"""Seconds without a task and without a peer after which a shim ends by itself."""
SPARE_TIME: Final = 6.0
"""Seconds that a shim waits to be told which it is; the daemon counts on a spare a little less long."""
FAREWELL: Final = 2.0
"""Seconds that a shim waits at its end for the daemon to take the last events and answers."""
MAX_FD: Final = 1 << 20
"""Descriptors above are not looked for when a shim begins; where close_range(2) is, it is one call."""
MAX_ERRORS: Final = 1 << 20
"""Bytes of ``shim.log``; what comes later is not written."""


def prepare() -> None:
    """What all shims share and none should have to make: called by the zygote."""
    try:
        Cgroup.open("/portside")  # imports what this machine's layout needs, and remembers the layout
    except PortsideError:
        pass  # A machine without control groups says so when a container is made.
    outbox_module.prepare()
    service_module.prepare()


def run(source: _socket.socket) -> None:
    """Be a shim, to the end, once ``source`` says which (``keeper.send_shim``); it may end before that."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.dup2(0, 2)  # /dev/null, as standard input and output are already
    os.closerange(3, source.fileno())
    os.closerange(source.fileno() + 1, MAX_FD)
    pid = os.getpid()
    wake = be_keeper(source)
    if wake is not None:
        linux.set_child_subreaper()
        Running(pid, wake).run()


def be_keeper(source: _socket.socket) -> keeper.Wake | None:
    """Be the keeper of a shim that ``source`` names, which others may share.

    Returns in each worker, and at last None in the keeper.

    What can be done before anybody waits for it is done first. All of it is rehearsed (``rehearsal.py``): each thing
    that the interpreter does here for the first time costs memory for as long as the container lives.
    """
    linux.set_child_subreaper()
    set_title(b"portside-shim (spare)")
    keeping = keeper.Keeper()
    wake = keeping.first()
    if wake is not None:
        source.close()
        return wake
    message, listener = keeper.await_shim(source, SPARE_TIME)
    if listener < 0:
        keeping.close()
        return None
    config = message[keeper.NUMBER :]
    namespace, id, bundle, address, _ = config.split(b"\0", 4)
    # A daemon that does not wait long enough for an answer asks again. The socket must have one shim only.
    lock = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    keeper.answer_shim(source, message)
    source.close()
    keeping.begin(config, listener)
    os.chdir(bundle)
    _set_title_of(namespace, id)
    wake = keeping.keep()
    if wake is None:
        os.close(lock)
        keeping.close()
        try:
            os.unlink(address)
        except OSError:
            pass  # The daemon has removed it.
    return wake


class Running:
    """A worker: the parts of a shim, joined."""

    def __init__(self, pid: int, wake: keeper.Wake) -> None:
        self._keeper = wake.channel
        self._loop = Loop(self._log)
        data, listener = wake.shim()
        self._config = config = Config.decode(data)
        os.chdir(config.bundle)
        _set_title_of(config.namespace.encode(), os.fsencode(config.id))
        self._outbox = Outbox(self._loop, config.events, config.namespace)
        self._shim = Shim(self._loop, self._outbox, config.namespace, config.cache_dir)
        self._shim.pid = pid
        self._service = TaskService(self._shim, self._watch_idle, self._shutdown)
        self._server = Server(self._loop, _socket.socket(fileno=listener), self._service.handle)
        self._ending = False
        self._quiet = QUIET
        self._seen = -1
        self._woken = time.monotonic()
        self._idle_since = self._woken
        ice = Thawing(wake.fds)
        if wake.state:
            self._thaw(ice, json.loads(wake.state))
        for pid, status, now in wake.exits:
            self._shim.ended(pid, status, now)

    def run(self) -> None:
        """The worker's life."""
        # These must not end us, nor be ignored, since what is ignored stays so in the container's processes.
        self._loop.on_signals(
            (signals.SIGCHLD, signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGPIPE, signals.SIGXFSZ),
            self._signalled,
        )
        self._loop.watch(self._keeper.fileno(), READ, self._hear_keeper)
        self._loop.later(self._quiet, self._look_around)
        self._loop.run()
        self._server.close()
        self._outbox.close()
        self._loop.close()

    def _signalled(self, number: int) -> None:
        if number == signals.SIGCHLD:
            self._shim.reap()

    def _hear_keeper(self, _ready: int) -> None:
        received = keeper.receive(self._keeper, 4096)
        if received is None:
            return
        message, _fds = received
        if not message:  # It was killed. What is half made would be nobody's; the rest is cleaned up by the daemon.
            for conversation in list(self._shim.conversations):
                conversation.abandon()
            keeper.leave(1)
        self._shim.ended(*keeper.exit_of(message))
        self._keeper.send(keeper.DONE)

    def _look_around(self) -> None:
        """Every now and then: end, sleep, or stay, depending on what has happened since the last look."""
        idle = self._service.idle and not self._server.connections
        now = time.monotonic()
        if not idle:
            self._idle_since = now
        elif now - self._idle_since >= IDLE_TIMEOUT:
            self._shutdown()
        if self._loop.activity == self._seen and not self._ending:
            self._fall_asleep(IDLE_TIMEOUT - (now - self._idle_since) if idle else float("inf"))
        self._seen = self._loop.activity
        self._loop.later(self._quiet, self._look_around)

    def _fall_asleep(self, timeout: float) -> None:
        ice = Freezing()
        # One that is woken soon stays awake longer the next time: a container that writes a line now and then should
        # not cost a process each time.
        slept_badly = time.monotonic() - self._woken < 4 * self._quiet
        quiet = min(self._quiet * 2, MAX_QUIET) if slept_badly else QUIET
        try:
            if self._shim.makers or self._shim.conversations:
                raise NotQuiet
            state = {"server": self._server.freeze(ice), "outbox": self._outbox.freeze(ice), "quiet": quiet}
            state |= {"service": self._service.freeze(ice), "idle_since": self._idle_since}
            keeper.fall_asleep(self._keeper, json.dumps(state).encode(), ice.fds, bytes(ice.watched), timeout)
        except (NotQuiet, OSError):
            pass

    def _thaw(self, ice: Thawing, state: dict[str, Any]) -> None:
        self._quiet, self._idle_since = state["quiet"], state["idle_since"]
        self._outbox.thaw(state["outbox"])
        self._server.thaw(ice, state["server"])
        self._service.thaw(ice, state["service"])

    def _watch_idle(self) -> None:
        """A task has come or gone."""
        self._idle_since = time.monotonic()

    def _shutdown(self) -> None:
        if self._ending or not self._service.idle:
            return
        self._ending = True
        self._loop.later(FAREWELL, self._loop.stop)
        self._outbox.on_idle = self._end_if_done
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._outbox.idle and not self._server.unsent:
            self._loop.stop()

    def _log(self, error: BaseException) -> None:
        """A defect, for whoever looks into the bundle."""
        import traceback  # Here, since it is large and seldom needed.

        text = "".join(traceback.format_exception(error))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(f"{self._config.bundle}/shim.log", flags, 0o600)
            try:
                if os.fstat(fd).st_size < MAX_ERRORS:
                    os.write(fd, text.encode(errors="replace"))
            finally:
                os.close(fd)
        except OSError:
            pass  # Nobody is left to be told.


_title_place = (0, 0)


def prepare_process() -> None:
    """What shims inherit from the zygote: name, umask, signals, and where the title goes."""
    global _title_place
    os.umask(0o022)
    keeper.handle_signals()
    try:
        _write(b"/proc/self/comm", b"portside-shim", -1)
        fields = read_file("/proc/self/stat", 4096).rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 of proc_pid_stat(5)
        _title_place = (start, end - start) if 0 < end - start < 1 << 20 else (0, 0)
    except OSError:
        pass  # A title is for people.


def set_title(title: bytes) -> None:
    """What ps(1) shows as our arguments, by writing over them: prctl's way needs CAP_SYS_RESOURCE."""
    start, size = _title_place
    if start:
        try:
            _write(b"/proc/self/mem", title[: size - 1].ljust(size, b"\0"), start)
        except OSError:
            pass  # A hardened kernel may not let us.


def _set_title_of(namespace: bytes, id: bytes) -> None:
    set_title(b"portside-shim -namespace %b -id %b" % (namespace, id))


def _write(path: bytes, data: bytes, offset: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if offset >= 0:
            os.lseek(fd, offset, os.SEEK_SET)
        os.write(fd, data)
    finally:
        os.close(fd)


def main(arguments: list[str]) -> int:
    """The fallback's entry."""
    linux.close_all_but((0, 1, 2, int(arguments[2])))
    prepare_process()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    config = os.fsencode(arguments[1]).replace(b"\n", b"\0")
    keeper.send_shim(ours, bytes(keeper.NUMBER) + config, int(arguments[2]))
    run(theirs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
