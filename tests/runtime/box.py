"""What the tests of the runtime share: making containers that cannot outlive a test."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portside.linux.cgroups import layout
from portside.runtime.container import Container
from portside.runtime.process import Process, Stdio
from tests.support import bundles

Change = Callable[[dict[str, Any]], object]
_count = itertools.count()


@dataclass(frozen=True)
class Result:
    """How a process ended (as a shell has it) and what it wrote to both streams."""

    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Box:
    """A bundle with a root of busybox's."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.root = bundle / "rootfs"
        self.group = f"portside-test-runtime-{os.getpid()}"

    def spec(self, *args: str, change: Change | None = None) -> dict[str, Any]:
        """The base spec with one change."""
        made = bundles.spec(*args, cgroup=f"/{self.group}/{next(_count)}")
        if change is not None:
            change(made)
        return made

    def sh(self, script: str, change: Change | None = None, **named: Any) -> Result:
        """Run ``script`` by the shell of a new container."""
        return self.run(self.spec("/bin/sh", "-c", script, change=change), **named)

    def run(self, spec: dict[str, Any], **named: Any) -> Result:
        """Create, start, wait, delete."""
        with tempfile.TemporaryFile() as output:
            stdio = Stdio(-1, output.fileno(), output.fileno())
            with self.created(spec, stdio=stdio, **named) as container:
                container.start()
                code = finish(container.init)
            output.seek(0)
            return Result(code, output.read().decode(errors="replace"))

    @contextlib.contextmanager
    def created(self, spec: dict[str, Any], *, stdio: Stdio | None = None, **named: Any) -> Iterator[Container]:
        """A container that waits to be started; gone afterwards, whatever state it is in then."""
        container = Container.create(f"box{next(_count)}", str(self.bundle), spec, stdio or Stdio(), **named)
        try:
            yield container
        finally:
            try:
                container.delete(force=True)
            finally:
                finish(container.init)
                for fd in (container.init.pidfd, container.init.console):
                    if fd >= 0:
                        os.close(fd)

    @contextlib.contextmanager
    def running(self, change: Change | None = None, **named: Any) -> Iterator[Container]:
        """A container whose first process sleeps."""
        with self.created(self.spec("/bin/sleep", "1000", change=change), **named) as container:
            container.start()
            yield container

    def exec(self, container: Container, *args: str, **fields: Any) -> Result:
        """Run a further process to its end; ``fields`` are of its spec."""
        with tempfile.TemporaryFile() as output:
            document = {**bundles.process(*args), **fields}
            made = container.exec(document, Stdio(-1, output.fileno(), output.fileno()))
            code = finish(made)
            os.close(made.pidfd)
            output.seek(0)
            return Result(code, output.read().decode(errors="replace"))

    def forget_cgroups(self) -> None:
        """Remove the empty directory that held the groups of all containers of this process."""
        found = layout()
        for mounted in {*found.v1.values(), *([found.v2] if found.v2 else [])}:
            with contextlib.suppress(OSError):
                os.rmdir(f"{mounted}/{self.group}")


def finish(process: Process) -> int:
    """Reap a process: its exit code, or 128 and the signal; 0 if somebody has reaped it."""
    try:
        result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
    except (ChildProcessError, OSError):
        return 0
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def read_console(console: int) -> str:
    """Everything that is written to a terminal until the last process closes it."""
    text = b""
    while True:
        try:
            chunk = os.read(console, 65536)
        except OSError:  # EIO: nobody has it open any more
            break
        if not chunk:
            break
        text += chunk
    return text.decode(errors="replace")


def namespaces(*kinds: str, **paths: str) -> Change:
    """A change: these namespaces, new, and those of ``paths`` joined."""

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [{"type": kind} for kind in kinds] + [
            {"type": kind, "path": path} for kind, path in paths.items()
        ]

    return change


KILL = signal.SIGKILL
