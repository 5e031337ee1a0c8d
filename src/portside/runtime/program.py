"""From a process that is inside its container to the program: user, directory, capabilities, filter, execve.

The tail that the first process of a container and an exec have in common. The constructor runs in the maker; the other
methods run in the new process, in their order: ``settle`` and ``find`` do everything that may fail or needs memory,
files or rights; ``execute``, after the start was allowed, only what a filter or a limit could get in the way of.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat

from portside.linux import apparmor, capabilities, process, rlimits, terminal
from portside.linux.capabilities import Capabilities
from portside.linux.fd import O_PATH
from portside.linux.openat2 import RESOLVE_NO_MAGICLINKS, make_directories, open_in_root, openat2
from portside.linux.syscalls import declare, encode
from portside.runtime import hooks as hook_runner
from portside.runtime import user
from portside.runtime.failure import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from portside.linux.seccomp import Filter
    from portside.runtime.spec import Hook, ProcessSpec

_SYS_ADMIN = 1 << capabilities.NAMES.index("CAP_SYS_ADMIN")
_AT_FDCWD = -100
_MAX_INTERPRETERS = 6  # the kernel gives up after five
_NULL = os.makedev(1, 3)
_Strings = ctypes.POINTER(ctypes.c_char_p)
_execve = declare("execve", ctypes.c_char_p, _Strings, _Strings)


class Program:
    """One process of a spec on its way to execve.

    ``warnings`` are for people: capabilities that nobody knows or that cannot be given; ``late_warnings`` are what the
    new process has to add and sends with READY. ``own_user_namespace``: the process is in a user namespace, so our own
    bounding set says nothing about it.
    """

    __slots__ = (
        "_arguments", "_cpus", "_early_limits", "_environment", "_final", "_late_limits", "_path", "_profile",
        "_waiting", "environment", "filter", "keyring", "late_warnings", "personality", "spec", "warnings",
    )  # fmt: skip

    def __init__(
        self, spec: ProcessSpec, seccomp: Filter | None, keyring: str, personality: int, own_user_namespace: bool
    ) -> None:
        self.spec = spec
        self.filter = seccomp
        self.keyring = keyring
        self.personality = personality
        wanted, unknown = Capabilities.parse(spec.capabilities)
        self.warnings = [f"capability {name!r} is not known" for name in unknown]
        if not own_user_namespace:
            lost = wanted.limit(_own_bounding())
            self.warnings += [f"capability {name} is not ours to give" for name in lost]
        self._final = wanted
        # Loading a filter without no_new_privs takes CAP_SYS_ADMIN, so it is held on to until that has been done.
        extra = _SYS_ADMIN if seccomp and not spec.no_new_privileges else 0
        self._waiting = Capabilities(
            wanted.bounding, wanted.effective | extra, wanted.permitted | extra, wanted.inheritable, wanted.ambient
        )
        self._profile = _apparmor_profile(spec)
        self._cpus = range(os.cpu_count() or 1)
        limits = spec.rlimits
        # Raising a limit takes privilege, lowering one may starve us: the former early, the latter last.
        raised = [_is_raise(limit) for limit in limits]
        self._early_limits = [limit for limit, up in zip(limits, raised, strict=True) if up]
        self._late_limits = [limit for limit, up in zip(limits, raised, strict=True) if not up]
        self.environment: dict[str, str] = {}
        self.late_warnings: list[str] = []
        self._path = b""
        self._arguments: ctypes.Array[ctypes.c_char_p] | None = None
        self._environment: ctypes.Array[ctypes.c_char_p] | None = None

    def settle(self, root: int, make_cwd: bool, proc: Callable[[], int]) -> None:
        """Become everything but the program; ``root`` is open on ``/``. ``proc`` opens a procfs of our own."""
        spec = self.spec
        variables = dict(variable.split("=", 1) for variable in spec.env)
        identity = user.resolve(spec.user, root, want_home=not variables.get("HOME"))
        if not variables.get("HOME"):
            variables["HOME"] = identity.home
        self.environment = variables
        _own_stdio(identity.uid)
        if self._profile:
            _step("set AppArmor profile", apparmor.set_exec_profile, proc(), self._profile)
        if self.keyring:
            process.join_session_keyring(self.keyring)
        if self.personality >= 0:
            process.set_personality(self.personality)
        os.sched_setaffinity(0, self._cpus)
        _step("set priority", spec.priority.apply)
        _step("set limits", rlimits.apply, self._early_limits)
        if make_cwd:
            _make_directory(root, spec.cwd)
        arrived = _enter_directory(root, spec.cwd, last=False)
        self._become_user(identity)
        if not arrived:
            _enter_directory(root, spec.cwd, last=True)
        os.umask(spec.user.umask if spec.user.umask >= 0 else 0o022)
        if spec.no_new_privileges:
            process.set_no_new_privileges()

    def find(self) -> None:
        """Look for the program, with no descriptor open any more through which a path could lead out."""
        spec, variables = self.spec, self.environment
        path = find_program(spec.args[0], variables.get("PATH", ""))
        refuse_magic_links(path)
        self._path = encode(path)
        self._arguments = _strings(spec.args)
        self._environment = _strings([f"{name}={value}" for name, value in variables.items()])

    def _become_user(self, identity: user.Identity) -> None:
        _step("drop capabilities", self._waiting.drop_bounding)
        if identity.uid:
            capabilities.keep_on_setuid(True)
        try:
            os.setgroups(identity.groups)
        except PermissionError:
            if identity.groups:
                raise RuntimeFailure(
                    "set groups", reason="the user namespace does not allow it", errno=errno.EPERM
                ) from None
        except OSError as error:
            raise RuntimeFailure.of("set groups", error) from error
        _step(f"become group {identity.gid}", os.setresgid, identity.gid, identity.gid, identity.gid)
        _step(f"become user {identity.uid}", os.setresuid, identity.uid, identity.uid, identity.uid)
        refused = _step("set capabilities", self._waiting.apply)
        self.late_warnings = [f"capability {name} cannot be ambient" for name in refused]

    def execute(self, hooks: list[Hook], state: bytes, listener: Callable[[int], None]) -> None:
        """Apply limits and filter, run startContainer hooks, exec. Returns only by raising."""
        process.close_range(3, flags=process.CLOSE_RANGE_CLOEXEC)
        _step("set limits", rlimits.apply, self._late_limits)
        if self.filter is not None:
            fd = _step("load seccomp filter", self.filter.load)
            if self.filter.notifies:
                listener(fd)
                os.close(fd)
        final = self._final
        if self._waiting.permitted != final.permitted or self._waiting.effective != final.effective:
            _step("set capabilities", capabilities.capset, final.effective, final.permitted, final.inheritable)
        if hooks:
            hook_runner.run_hooks("startContainer", hooks, state, self.environment)
        try:
            _execve(self._path, self._arguments, self._environment)
        except OSError as error:
            raise RuntimeFailure(f"exec {os.fsdecode(self._path)}", errno=error.errno or 0) from error


def _apparmor_profile(spec: ProcessSpec) -> str:
    """The profile to be set; what cannot be confined as asked does not run."""
    if spec.selinux:
        raise RuntimeFailure("set SELinux label", spec.selinux, reason="this host does not run SELinux")
    if not spec.apparmor or spec.apparmor == apparmor.UNCONFINED:
        return ""
    if not apparmor.enabled():
        raise RuntimeFailure("set AppArmor profile", spec.apparmor, reason="this host does not run AppArmor")
    return spec.apparmor


_bounding = 0


def _own_bounding() -> int:
    """Our bounding set; it cannot grow, and nothing here makes it smaller in the maker."""
    global _bounding
    if not _bounding:
        _bounding = capabilities.bounding()
    return _bounding


def _is_raise(limit: tuple[int, int, int]) -> bool:
    number, _, hard = limit
    own = resource.getrlimit(number)[1]
    return own != resource.RLIM_INFINITY and (hard > own)


def _step(text: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except OSError as error:
        raise RuntimeFailure.of(text, error) from error


def _strings(values: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(values) + 1))(*(os.fsencode(value) for value in values), None)


def place_stdio(stdio: tuple[int, int, int]) -> None:
    """Make ``stdio`` descriptors 0 to 2 (they have numbers above, or are these)."""
    for number, fd in enumerate(stdio):
        os.dup2(fd, number, inheritable=True)


def _own_stdio(uid: int) -> None:
    """Give the standard streams to the user, so that it can open /dev/stdout and the like again."""
    for number in range(3):
        status = os.fstat(number)
        if status.st_uid == uid or (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL):
            continue
        try:
            os.fchown(number, uid, -1)
        except OSError:
            continue  # not everything has an owner that can change: sockets, read-only files, ids without a mapping


def _make_directory(root: int, path: str) -> None:
    try:
        os.close(make_directories(root, path))
    except OSError:
        return  # entering it says why


def _enter_directory(root: int, path: str, last: bool) -> bool:
    """Change to ``path``; False if only the user may be able to, which is found out by a second try (``last``)."""
    try:
        fd = open_in_root(root, path, O_PATH | os.O_DIRECTORY)
        try:
            os.fchdir(fd)
        finally:
            os.close(fd)
        here = process.working_directory()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM) and not last:
            return False
        raise RuntimeFailure("change to directory", path, error.errno or 0) from error
    if not here.startswith("/"):
        raise RuntimeFailure("change to directory", path, reason="is outside the container's root")
    return True


def find_program(name: str, search: str) -> str:
    """The file that ``name`` means: a path, or a name to be looked for in the directories of ``search``."""
    step = f'exec: "{name[:200]}"'
    if "/" in name:
        try:
            status = os.stat(name)
        except OSError as error:
            raise RuntimeFailure(f"{step}: stat {name[:200]}", errno=error.errno or 0) from error
        if stat.S_ISDIR(status.st_mode):
            raise RuntimeFailure(step, errno=errno.EISDIR)
        if not os.access(name, os.X_OK):
            raise RuntimeFailure(step, errno=errno.EACCES)
        return name
    for directory in search.split(":") if search else []:
        candidate = f"{directory or '.'}/{name}"
        try:
            regular = not stat.S_ISDIR(os.stat(candidate).st_mode)
        except OSError:
            continue
        if regular and os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeFailure(step, errno=errno.ENOENT, reason="executable file not found in $PATH")


def refuse_magic_links(path: str) -> None:
    """Refuse a program, or an interpreter of its ``#!`` line, that is reached through a link such as /proc/self/exe.

    At the execve that link still leads to the binary of the runtime, which the container could then open for writing
    (CVE-2019-5736). The other half of the defence is ``interpreter``: a binary that cannot be written through its link.
    """
    name = path
    for _ in range(_MAX_INTERPRETERS):
        try:
            fd = openat2(_AT_FDCWD, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, 0, RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise RuntimeFailure(f'exec: "{path[:200]}"', reason="leads through a link of /proc") from None
            return  # it may be executable without being readable; or execve says what is wrong
        try:
            head = os.read(fd, 256) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        if not head.startswith(b"#!"):
            return
        words = head[2:].split(b"\n")[0].split()
        if not words:
            return
        name = os.fsdecode(words[0])


def take_terminal(peer: int) -> None:
    """Make ``peer`` our controlling terminal and standard streams; closes ``peer``."""
    _step("take the terminal", terminal.make_controlling, peer)
    place_stdio((peer, peer, peer))
    os.close(peer)
