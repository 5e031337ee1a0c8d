"""Running hooks: programs of the spec that get the container's state on standard input.

What belongs here: running one list of them in the caller's namespaces. When which kind runs is the business of
``container`` and ``init``. Source: runtime-spec config.md, *POSIX-platform Hooks*.
"""

from __future__ import annotations

import json
import os

from portside.linux import pidfd as pidfds
from portside.linux import signals
from portside.runtime.failure import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from portside.runtime.spec import Hook, Spec

#: Seconds that a hook may take which brings no limit of its own; less than anybody waits for a container to be made.
TIMEOUT = 100.0
#: How much of what a failing hook wrote becomes part of the error, in bytes.
_OUTPUT_LIMIT = 1024


def state_json(spec: Spec, container_id: str, bundle: str, status: str, pid: int) -> bytes:
    """The state of a container as hooks and the command ``state`` show it (runtime-spec runtime.md, *State*)."""
    state: dict[str, object] = {
        "ociVersion": spec.version or "1.2.0",
        "id": container_id,
        "status": status,
        "bundle": bundle,
        "annotations": spec.annotations,
    }
    if pid:
        state["pid"] = pid
    return json.dumps(state, separators=(",", ":")).encode()


def run_hooks(kind: str, hooks: list[Hook], state: bytes, environment: Mapping[str, str] | None = None) -> None:
    """Run ``hooks`` one after the other; the first that fails, or takes longer than it may, raises ``RuntimeFailure``.

    ``environment`` is used by those that bring none of their own.
    """
    for index, hook in enumerate(hooks):
        step = f"run {kind} hook {index}"
        try:
            _run(hook, step, state, environment or {})
        except OSError as error:
            raise RuntimeFailure.of(step, error, hook.path) from error


def _run(hook: Hook, step: str, state: bytes, environment: Mapping[str, str]) -> None:
    # Files in memory on both sides: a hook that reads nothing, or writes much, cannot make us wait.
    given, said = os.memfd_create("state", os.MFD_CLOEXEC), os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        os.write(given, state)
        os.lseek(given, 0, os.SEEK_SET)
        own = dict(variable.split("=", 1) for variable in hook.env if "=" in variable)
        pid = os.posix_spawn(
            hook.path,
            hook.args,
            own or environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given, 0),
                (os.POSIX_SPAWN_DUP2, said, 1),
                (os.POSIX_SPAWN_DUP2, said, 2),
            ],
            setsigmask=(),
            setsigdef=(signals.SIGPIPE, signals.SIGXFSZ),
        )
        _wait(pid, hook, step, said)
    finally:
        os.close(given)
        os.close(said)


def _wait(pid: int, hook: Hook, step: str, said: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        seconds = hook.timeout or TIMEOUT
        if not pidfds.wait_exit(fd, seconds):
            pidfds.send_signal(fd, signals.SIGKILL)
            pidfds.reap(fd)
            raise RuntimeFailure(step, hook.path, reason=f"did not end within {seconds:g} s")
        status = pidfds.reap(fd)
    finally:
        os.close(fd)
    if status:
        size = os.fstat(said).st_size
        output = os.pread(said, _OUTPUT_LIMIT, max(0, size - _OUTPUT_LIMIT)).decode(errors="replace").strip()
        code = os.waitstatus_to_exitcode(status)
        ending = f"exit status {code}" if code >= 0 else f"killed by signal {-code}"
        raise RuntimeFailure(step, hook.path, reason=f"{ending}: {output}" if output else ending)
