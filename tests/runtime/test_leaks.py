"""After a failure at any step nothing is left: no mount, process, control group or descriptor; nor after success."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from portside.errors import PortsideError
from portside.linux import pidfd, syscalls
from portside.runtime import devices, dialogue, exec, group, hooks, init, maker, masks, mounts, program
from portside.runtime import root as roots
from portside.runtime.container import Container
from portside.runtime.process import Stdio
from tests.runtime.box import Box, finish, namespaces
from tests.support import bundles, leftovers


def children() -> set[int]:
    """Our children, ended ones that nobody has reaped included."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))


@contextmanager
def nothing_left(box: Box) -> Iterator[None]:
    def look() -> tuple[Any, ...]:
        groups = {group for group in leftovers.cgroups(box.group) if not group.endswith(box.group)}
        ours = {mount for mount in leftovers.mounts() if str(box.bundle) in mount}
        return ours, children(), groups, sorted(os.listdir("/proc/self/fd"))

    before = look()
    yield
    assert look() == before


def everything(spec: dict[str, Any]) -> None:
    """A spec that goes through every step."""
    spec["process"]["terminal"] = True
    spec["process"]["oomScoreAdj"] = 900
    spec["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    spec["mounts"] += [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        {"destination": "/bound", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]},
    ]
    spec["hooks"] = {kind: [{"path": "/bin/true"}] for kind in ("prestart", "createRuntime", "createContainer")}


def test_success_leaves_nothing(box: Box) -> None:
    box.sh("true")
    with nothing_left(box):
        spec = box.spec("/bin/true", change=everything)
        with box.created(spec, stdio=Stdio(terminal=True)) as container:
            container.start()
            finish(container.init)
        with box.running() as container:
            assert box.exec(container, "/bin/true").code == 0


# Everything that init, exec or the maker calls, one after the other made to fail.
_STEPS: list[tuple[Any, str]] = [
    (init.process, "close_all_but"), (init.process, "reset_signals"), (init.os, "setsid"),
    (init.netns, "loopback_up"), (init.ns, "unshare"), (init.process, "set_hostname"), (init, "_attach_root"),
    (roots, "set_sysctl"), (mounts.FilesystemMount, "run"), (mounts.BindMount, "run"), (mounts.CgroupMount, "run"),
    (devices.DefaultNodes, "run"), (devices.DevLinks, "run"), (init, "open_console"), (init, "mount_console"),
    (init, "take_terminal"), (roots, "pivot"), (masks.MaskPaths, "run"), (masks.ReadonlyPaths, "run"),
    (program.user, "resolve"), (program.process, "join_session_keyring"), (program, "_enter_directory"),
    (program, "find_program"), (program.capabilities, "capset"), (program.os, "setresuid"),
    (program.process, "set_no_new_privileges"), (maker.ns, "clone3"), (Container, "_make_cgroup"),
    (group, "join"), (maker, "set_oom_score_adj"), (hooks, "run_hooks"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "name"), _STEPS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_failure_at_any_step_of_create(box: Box, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    box.sh("true")

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with nothing_left(box), monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        with pytest.raises(PortsideError, match="input/output error"):
            Container.create("leak", str(box.bundle), box.spec("/bin/true", change=everything), Stdio(terminal=True))


def failing_after(count: int) -> Callable[..., int]:
    """A system call gate that lets ``count`` calls through and then fails each (copied into the child at the clone)."""
    passed = 0
    original = syscalls.Syscall.__call__

    def call(self: syscalls.Syscall, *arguments: Any) -> int:
        nonlocal passed
        passed += 1
        if passed > count and self.name not in ("prctl",):
            syscalls.fail(errno.ENOMEM, self.name, arguments)
        return original(self, *arguments)

    return call


@pytest.mark.parametrize("first", range(0, 200, 9))
def test_system_calls_that_fail_from_some_point_on(box: Box, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    box.sh("true")
    with nothing_left(box):
        with monkeypatch.context() as patch:
            patch.setattr(syscalls.Syscall, "__call__", failing_after(first))
            try:
                made = Container.create(
                    "leak", str(box.bundle), box.spec("/bin/true", change=everything), Stdio(terminal=True)
                )
            except PortsideError:
                return
        made.delete(force=True)
        finish(made.init)
        os.close(made.init.pidfd)
        os.close(made.init.console)


_EXEC_STEPS: list[tuple[Any, str]] = [
    (exec.process, "close_all_but"), (exec.ns, "setns"), (exec.ns, "clone3"), (exec.os, "setsid"),
    (exec, "open_console"), (exec, "take_terminal"), (program.user, "resolve"), (program, "find_program"),
    (group, "join"), (maker, "set_oom_score_adj"), (program, "_execve"), (maker.pidfds, "pidfd_open"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "name"), _EXEC_STEPS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_failure_at_any_step_of_exec(box: Box, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    document = {**bundles.process("/bin/true"), "terminal": True, "oomScoreAdj": 900}
    with box.running() as container, nothing_left(box):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(PortsideError, match="input/output error"):
                container.exec(document, Stdio(terminal=True))
        assert container.pids() == [container.init.pid]


def test_a_child_that_dies_without_a_word(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.sh("true")
    with nothing_left(box), monkeypatch.context() as patch:
        patch.setattr(init, "_attach_root", lambda *_: os._exit(9))
        with pytest.raises(PortsideError, match="died before it was ready"):
            box.sh("true")


def test_init_leaves_when_its_maker_goes(box: Box) -> None:
    with box.created(box.spec("/bin/sleep", "1000")) as container:
        assert container._channel is not None
        container._channel.close()
        assert finish(container.init) == 1


def pid_after_the_end(self: dialogue.Channel, kind: bytes, payload: bytes = b"", fd: int = -1) -> None:
    """``Channel.send`` of a process in between that is slow: it tells the child's pid when the child has ended."""
    if kind == dialogue.PID:
        child = os.pidfd_open(int(payload))
        pidfd.wait_exit(child)
        os.close(child)
    _send(self, kind, payload, fd)


_send = dialogue.Channel.send


def test_a_failure_that_arrives_before_the_pid(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    with box.running() as container:
        with nothing_left(box), monkeypatch.context() as patch:
            patch.setattr(dialogue.Channel, "send", pid_after_the_end)
            with pytest.raises(PortsideError, match="executable file not found"):
                container.exec(bundles.process("nothing"), Stdio())
        change = namespaces("ipc", "uts", "mount", "network", pid=f"/proc/{container.init.pid}/ns/pid")
        with nothing_left(box), monkeypatch.context() as patch:
            patch.setattr(dialogue.Channel, "send", pid_after_the_end)
            with pytest.raises(PortsideError, match="executable file not found"):
                box.run(box.spec("nothing", change=change))
