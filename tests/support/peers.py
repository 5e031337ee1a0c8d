"""Real peers, started privately and stopped by pid: a registry, our daemon, Debian's containerd and its ctr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portside.shim.record import start_time

SLOWNESS = float(os.environ.get("PORTSIDE_TEST_SLOWNESS") or 1)
"""Deadlines in tests are multiplied by this: emulated machines are slow."""


def need_program(*names: str) -> None:
    """Skip the test, with the reason, where a program is missing."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"needs the program {name}")


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Poll until ``condition``; the test fails with ``what`` after ``seconds`` (times the machine's slowness)."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds * SLOWNESS:.0f} s for {what}")
        time.sleep(0.01)


def accepts(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def stop(process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds * SLOWNESS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def registry(directory: Path, more: str = "") -> Iterator[str]:
    """Debian's docker-registry on loopback, ``more`` added to its configuration; its ``host:port``."""
    need_program("docker-registry")
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {directory}/data}}\n"
        f"  delete: {{enabled: true}}\nhttp: {{addr: 127.0.0.1:{port}}}\n{more}"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_for(lambda: _tcp(port), "the registry")
        yield f"127.0.0.1:{port}"
    finally:
        stop(process)


def _tcp(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Daemon:
    """Our daemon on a private root, as a process of its own; it can be killed and started again."""

    def __init__(self, directory: Path, config: str = "") -> None:
        """``config``: the text of a configuration file."""
        self.config = directory / "config.toml" if config else None
        if self.config is not None:
            self.config.write_text(config)
        self.root, self.state = directory / "root", directory / "state"
        self.socket = self.state / "portside.sock"
        self.log = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "portside.cli.main", "daemon", "--root", str(self.root)]
        command += ["--state", str(self.state), "-l", "debug"]
        command += ["-c", str(self.config)] if self.config is not None else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self._running() and accepts(self.socket), f"the daemon, see {self.log}")

    def _running(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the daemon ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
        return True

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; containers that a failed test has left are killed with their shims."""
        if self.process is not None:
            stop(self.process)
        for record in self.state.glob("io.containerd.runtime.v2.task/*/*/state.json"):
            try:
                found = json.loads(record.read_text())
                for process in (*found["processes"].values(), found["shim"]):
                    if (
                        process["pid"] > 0 and start_time(process["pid"]) == process["start"]
                    ):  # not another one's by now
                        os.kill(process["pid"], signal.SIGKILL)
            except (OSError, ValueError, KeyError):
                continue

    def ctr(self, *words: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        """Debian's ctr against our socket."""
        need_program("ctr")
        return run("ctr", "-a", str(self.socket), *words, check=check, **kwargs)

    def portside(self, *words: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        """Our own command."""
        return run(sys.executable, "-m", "portside.cli.main", "-a", str(self.socket), *words, check=check, **kwargs)


def run(*command: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run a command; with ``check`` its failure fails the test and shows what it said."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)  # type: ignore[attr-defined]
    if "input" in kwargs:
        kwargs.pop("stdin")
    result = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=kwargs.pop("text", True), timeout=120 * SLOWNESS, **kwargs
    )
    if check and result.returncode:
        pytest.fail(f"{' '.join(command)}: status {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-3000:]}")
    return result  # type: ignore[no-any-return]
