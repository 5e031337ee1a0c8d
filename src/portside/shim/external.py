"""A container by an external OCI runtime (``BinaryName``: runc, crun, …), with the interface of ``runtime.Container``.

The runtime is a command: ``--root DIR --log FILE --log-format json`` and a verb. It forks the container and goes; since
the shim is a subreaper, the container becomes the shim's child. What went wrong is the last error in its log.

Source: the command line of runc(8), which the others share.
"""

from __future__ import annotations

import _socket
import json
import os
import stat
import struct

from portside.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable, Unknown
from portside.linux import pidfd as pidfds
from portside.linux import signals
from portside.linux.cgroups.cgroup import Cgroup
from portside.runtime.process import Process, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

TIMEOUT: Final = 60.0
"""Seconds that a command may take (hooks included) before it is killed."""
MAX_LOG: Final = 1 << 20
"""Bytes of a runtime's log that are looked at, from its end."""


class ExternalContainer:
    """One container of an external runtime, from ``create`` to ``delete``."""

    __slots__ = ("_root", "bundle", "cgroup", "command", "id", "init")

    def __init__(self, id: str, bundle: str, command: list[str], root: str) -> None:
        self.id = id
        self.bundle = bundle
        self.init: Process
        self.cgroup: Cgroup | None = None
        """Where it runs, if that is a group of its own."""
        self._root = root
        self.command = command
        """The runtime and its global options, to be followed by a verb."""

    @classmethod
    def create(
        cls, id: str, bundle: str, stdio: Stdio, *, binary: str, root: str, no_pivot: bool = False,
        no_new_keyring: bool = False, systemd_cgroup: bool = False,
    ) -> ExternalContainer:  # fmt: skip
        """Run its ``create``; as ``runtime.Container.create``, with the root file system at ``bundle/rootfs``."""
        command = [_find(binary), "--root", root, *(["--systemd-cgroup"] if systemd_cgroup else [])]
        made = cls(id, bundle, command, root)
        arguments = ["create", "--bundle", bundle]
        if no_pivot:
            arguments.append("--no-pivot")
        if no_new_keyring:
            arguments.append("--no-new-keyring")
        try:
            made.init = made._spawn(arguments, stdio)
        except BaseException:
            try:
                made._run(["delete", "--force", id])
            except Exception:
                pass  # What went wrong first is what counts.
            raise
        path = _own_cgroup(made.init.pid)
        made.cgroup = Cgroup.open(path) if path else None
        return made

    def hand_over(self) -> tuple[dict[str, Any], list[int]]:
        """What ``take_over`` takes in another process, and the pidfd of init."""
        facts = {
            "pid": self.init.pid,
            "command": self.command,
            "root": self._root,
            "cgroup": self.cgroup.path if self.cgroup is not None else "",
            "hooks": False,
        }
        return facts, [self.init.pidfd]

    @classmethod
    def take_over(cls, id: str, bundle: str, facts: Mapping[str, Any]) -> ExternalContainer:
        """The container again."""
        made = cls(id, bundle, facts["command"], facts["root"])
        made.init = Process(facts["pid"], -1)
        made.cgroup = Cgroup.open(facts["cgroup"]) if facts["cgroup"] else None
        return made

    def start(self) -> None:
        """Let init run."""
        self._run(["start", self.id])

    def exec(self, process: Mapping[str, Any], stdio: Stdio) -> Process:
        """Run one more process."""
        path = f"{self.bundle}/.exec-{os.getpid()}.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(process).encode())
            return self._spawn(["exec", "--detach", "--process", path], stdio)
        finally:
            os.unlink(path)

    def kill(self, number: int, all: bool = False) -> None:
        """Send a signal; NotFound if there is no process to get it."""
        try:
            self._run(["kill", *(["--all"] if all else []), self.id, str(number)])
        except (Unknown, NotFound) as error:
            if "already finished" in str(error) or "not running" in str(error) or "does not exist" in str(error):
                raise NotFound(f"kill container {self.id}: process already finished") from error
            raise

    def pause(self) -> None:
        """Freeze it."""
        self._run(["pause", self.id])

    def resume(self) -> None:
        """Undo ``pause``."""
        self._run(["resume", self.id])

    def pids(self) -> list[int]:
        """Its processes."""
        pids = json.loads(self._run(["ps", "--format", "json", self.id]) or b"[]")
        return sorted(int(pid) for pid in pids)

    def update(self, resources: Mapping[str, Any]) -> None:
        """Change limits."""
        path = f"{self.bundle}/.resources-{os.getpid()}.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(resources).encode())
            self._run(["update", "--resources", path, self.id])
        finally:
            os.unlink(path)

    def stats(self) -> tuple[str, dict[str, Any]]:
        """From its control group."""
        if self.cgroup is None:
            raise FailedPrecondition(f"stats of container {self.id}: it has no control group of its own")
        return f"v{self.cgroup.version}", self.cgroup.stats()

    def delete(self, force: bool = False) -> None:
        """Remove what the runtime keeps; one that does not know the container has done so."""
        try:
            self._run(["delete", *(["--force"] if force else []), self.id])
        except (Unknown, NotFound) as error:
            if "does not exist" not in str(error):
                raise

    # Running it

    def _spawn(self, arguments: Sequence[str], stdio: Stdio) -> Process:
        """Run ``create`` or ``exec``, whose descriptors the container's process inherits; the process it made."""
        pid_file = f"{self.bundle}/.pid-{os.getpid()}"
        arguments = [*arguments, "--pid-file", pid_file]
        listener = None
        try:
            if stdio.terminal:
                listener, path = _console_socket(self.bundle)
                arguments += ["--console-socket", path]
            self._run([*arguments, self.id], (stdio.stdin, stdio.stdout, stdio.stderr))
            with open(pid_file, "rb") as file:
                pid = int(file.read(32))
            console = _receive_console(listener) if listener is not None else -1
        finally:
            if listener is not None:
                listener.close()
                os.unlink(path)
            try:
                os.unlink(pid_file)
            except FileNotFoundError:
                pass
        return Process(pid, os.pidfd_open(pid), console)

    def _run(self, arguments: Sequence[str], stdio: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
        """Run one command; its output (of commands without ``stdio``), or an error with what its log says last."""
        log = f"{self.bundle}/.runtime-{os.getpid()}.log"
        command = [*self.command, "--log", log, "--log-format", "json"]
        os.makedirs(self._root, 0o700, exist_ok=True)
        opened = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        try:
            if arguments[0] not in ("create", "exec"):
                # Files in memory: a command that writes much, or leaves somebody who holds them, keeps nobody waiting.
                opened += (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("output", "errors"))
                stdio = (-1, opened[1], opened[2])
            actions = [(os.POSIX_SPAWN_DUP2, opened[0] if fd < 0 else fd, to) for to, fd in enumerate(stdio)]
            pid = os.posix_spawn(
                command[0], [*command, *arguments], _environment(), file_actions=actions,
                setsigdef=(signals.SIGPIPE, signals.SIGXFSZ, signals.SIGCHLD, signals.SIGTERM),
            )  # fmt: skip
            status = _wait(pid)
            output, errors = (_content(fd) for fd in opened[1:]) if len(opened) > 1 else (b"", b"")
            if status:
                what = f"{os.path.basename(command[0])} {arguments[0]} {self.id}"
                raise _failure(what, log, errors or output, status)
            return output
        except OSError as error:
            raise Unavailable(f"runtime {command[0]}: {error.strerror}") from error
        finally:
            for fd in opened:
                os.close(fd)
            try:
                os.unlink(log)
            except FileNotFoundError:
                pass


def _find(binary: str) -> str:
    """The runtime's path: as given if absolute, else from PATH. NotFound."""
    if "/" in binary:
        return binary
    for directory in (os.environ.get("PATH") or os.defpath).split(":") + ["/usr/local/sbin", "/usr/sbin", "/sbin"]:
        path = f"{directory}/{binary}"
        if directory and os.access(path, os.X_OK) and stat.S_ISREG(os.stat(path).st_mode):
            return path
    raise NotFound(f"runtime {binary}: not found in PATH")


def _environment() -> dict[str, str]:
    """A little of ours: what the runtime needs to find its helpers, and nothing of Python's."""
    return {"PATH": os.environ.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def _wait(pid: int) -> int:
    """Wait status of child ``pid``; killed and DeadlineExceeded after ``TIMEOUT``."""
    fd = os.pidfd_open(pid)
    try:
        if not pidfds.wait_exit(fd, TIMEOUT):
            pidfds.send_signal(fd, signals.SIGKILL)
            os.waitpid(pid, 0)
            raise DeadlineExceeded(f"runtime: not done within {TIMEOUT:g} s")
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(fd)


def _content(fd: int) -> bytes:
    """The end of what a command wrote."""
    return os.pread(fd, MAX_LOG, max(0, os.fstat(fd).st_size - MAX_LOG))


def _failure(what: str, log: str, output: bytes, status: int) -> Exception:
    """The last error in the runtime's log as one sentence, with the meaning that its words have."""
    message = ""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_LOG))
            lines = file.read().splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            message = str(entry.get("msg", ""))
    message = message or output.decode(errors="replace").strip()[-1000:] or f"exit status {status >> 8 or status}"
    kind = NotFound if "does not exist" in message or "no such file" in message else Unknown
    return kind(f"{what}: {message}")


def _console_socket(bundle: str) -> tuple[_socket.socket, str]:
    path = f"{bundle}/.console-{os.getpid()}"
    if len(os.fsencode(path)) > 107:
        path = f"/run/.portside-console-{os.getpid()}"
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(1)
    return listener, path


def _receive_console(listener: _socket.socket) -> int:
    listener.settimeout(5.0)
    fd, _address = listener._accept()  # type: ignore[attr-defined]
    peer = _socket.socket(fileno=fd)
    try:
        peer.settimeout(5.0)
        _data, ancillary, _flags, _peer = peer.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                return int(struct.unpack("i", payload[:4])[0])
    finally:
        peer.close()
    raise Unknown("runtime: sent no terminal")


def _own_cgroup(pid: int) -> str:
    """The group of process ``pid``, unless it is our own or the top."""

    def group(of: str) -> str:
        best = ""
        with open(f"/proc/{of}/cgroup", "rb") as file:
            for line in file.read().splitlines():
                _, controllers, path = line.decode().split(":", 2)
                if "memory" in controllers.split(",") or not controllers:
                    best = path if "memory" in controllers or not best else best
        return best

    path = group(str(pid))
    return "" if path in ("/", "", group("self")) else path
