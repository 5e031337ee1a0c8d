"""The configuration at the edges: containerd's own files in ours and ours in theirs, the command, a daemon's flags."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portside.core.toml import dumps
from tests.support.peers import Daemon, need_program, need_root, run

FORKY = Path(os.environ.get("PORTSIDE_CACHE", "/var/cache/portside")) / "forky"
DaemonFactory = Callable[[str], Daemon]

SETTINGS = """
version = 3
root = "/var/lib/other"
oom_score = -5
disabled_plugins = ["io.containerd.monitor.container.v1.restart"]
[grpc]
  address = "/run/other.sock"
  tcp_address = "127.0.0.1:0"
  uid = 7
  max_recv_message_size = 1048576
[debug]
  level = "warn"
  address = "/run/other-debug.sock"
[metrics]
  address = "127.0.0.1:1338"
[timeouts]
  "io.containerd.timeout.shim.load" = "7s"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "/run/stargz.sock"
[stream_processors."io.containerd.ocicrypt.decoder.v1.tar"]
  accepts = ["application/vnd.oci.image.layer.v1.tar+encrypted"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "decode"
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.05
  schedule_delay = "1s"
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "isolated"
"""


class Peer:
    """A containerd's ``config`` command, where files of ``directory`` can be read."""

    def __init__(self, version: int, directory: Path, root: Path | None) -> None:
        self.version, self.directory, self._root = version, directory, root

    def config(self, *words: str, file: Path | None = None) -> str:
        command = ["chroot", str(self._root)] if self._root else []
        command += ["containerd"]
        if file is not None:
            command += ["--config", f"/{file.relative_to(self._root)}" if self._root else str(file)]
        return run(*command, "config", *words).stdout


@pytest.fixture(params=["1.6", "2.1"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    need_root()
    if request.param == "1.6":
        need_program("containerd")
        yield Peer(2, tmp_path, None)
        return
    if not (FORKY / ".complete").exists():
        pytest.skip("needs the newer containerd of script/peers")
    directory = FORKY / "tmp" / f"config-{secrets.token_hex(4)}"
    directory.mkdir()
    try:
        yield Peer(3, directory, FORKY)
    finally:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


def ours(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("python3", "-m", "portside.cli.main", "config", *words, check=check)


def dumped(*words: str) -> dict[str, Any]:
    return tomllib.loads(ours("dump", *words).stdout)


def shared(theirs: Any, mine: Any) -> Any:
    """What both have, in the second one's values; tables all the way down."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        return {key: shared(theirs[key], mine[key]) for key in theirs if key in mine}
    return mine


def test_theirs_loads_in_ours(peer: Peer) -> None:
    file = peer.directory / "theirs.toml"
    file.write_text(peer.config("default"))
    mine = dumped("-c", str(file), "--config-version", "3")
    theirs = tomllib.loads(ours("migrate", "-c", str(file), "--config-version", "3").stdout)
    # What they leave empty has a value with us.
    for table, key in (("debug", "level"), ("debug", "format")):
        assert not theirs[table].pop(key)
    for table in ("grpc", "ttrpc", "metrics"):
        theirs[table] = {key: value for key, value in theirs.get(table, {}).items() if value}
    assert shared(theirs, mine) == shared(mine, theirs)
    assert {"root", "state", "grpc", "plugins", "timeouts", "stream_processors"} <= theirs.keys() & mine.keys()


def test_ours_loads_in_theirs_and_comes_back(peer: Peer) -> None:
    source, file = peer.directory / "source.toml", peer.directory / "ours.toml"
    source.write_text(SETTINGS)
    file.write_text(ours("dump", "-c", str(source), "--config-version", str(peer.version)).stdout)
    sent, theirs = tomllib.loads(file.read_text()), tomllib.loads(peer.config("dump", file=file))
    assert theirs["version"] == peer.version
    theirs.pop("imports")  # 1.6 writes the file's own name there
    known = shared(theirs, sent)
    assert shared(known, theirs) == known
    for key in ("root", "oom_score", "disabled_plugins", "timeouts", "proxy_plugins", "stream_processors"):
        assert key in known
    for key in ("address", "tcp_address", "uid", "gid", "max_recv_message_size", "max_send_message_size"):
        assert known["grpc"][key] == theirs["grpc"][key]
    assert known["metrics"]["address"] == "127.0.0.1:1338" and known["debug"]["level"] == "warn"
    assert known["plugins"]["io.containerd.metadata.v1.bolt"]["content_sharing_policy"] == "isolated"
    scheduler = known["plugins"]["io.containerd.gc.v1.scheduler"]
    assert scheduler["pause_threshold"] == 0.05 and scheduler["schedule_delay"] == "1s"

    file.write_text(peer.config("dump", file=file))
    if peer.version == 2:
        assert tomllib.loads(file.read_text())["imports"] == [str(file)]
    source.write_text(dumps(sent))
    sent = tomllib.loads(ours("migrate", "-c", str(source)).stdout)
    back = dumped("-c", str(file))
    assert shared(sent, back) == shared(back, sent)


def test_the_command(tmp_path: Path) -> None:
    default = ours("default")
    assert default.stderr == "" and default.stdout == ours("default").stdout
    file = tmp_path / "c.toml"
    file.write_text(default.stdout)
    assert ours("dump", "-c", str(file)).stdout.replace("imports = []", "") == default.stdout.replace(
        "imports = ['/etc/portside/conf.d/*.toml']", ""
    )
    file.write_text("version = 2\nroot = '/x'\nodd = 1\n")
    result = ours("dump", "-c", str(file))
    assert result.stderr == f"portside config: configuration {file}: odd: unknown key, no effect\n"
    assert tomllib.loads(result.stdout)["root"] == "/x"
    assert tomllib.loads(ours("migrate", "-c", str(file)).stdout)["version"] == 4


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["print"], 125, "want default, dump or migrate, not 'print'"),
        ([], 125, "want default|dump|migrate, got 0 arguments"),
        (["default", "--config-version", "1"], 125, "--config-version 1: want 2, 3 or 4"),
        (["dump", "-c", "/nowhere.toml"], 1, "configuration /nowhere.toml: no such file"),
        (["migrate", "-c", "/etc"], 1, "configuration /etc: is not a file"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], status: int, text: str) -> None:
    result = ours(*words, check=False)
    assert result.returncode == status and text in result.stderr and result.stdout == ""


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[DaemonFactory]:
    need_root()
    made: list[Daemon] = []

    def make(config: str) -> Daemon:
        made.append(Daemon(tmp_path, config))
        return made[-1]

    yield make
    for daemon in made:
        daemon.stop()


def test_a_daemon_obeys_file_and_flags(make_daemon: DaemonFactory, tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/1.toml").write_text(
        'version = 2\ndisabled_plugins = ["io.containerd.snapshotter.v1.native"]\nodd = 1\n'
    )
    daemon = make_daemon(
        "version = 3\nrequired_plugins = ['io.containerd.monitor.v1.cgroups', 'io.containerd.metadata.v1.bolt',"
        " 'io.containerd.grpc.v1.tasks', 'io.containerd.server.v1.grpc']\n"
        "imports = ['conf.d/*.toml']\nroot = '/nowhere'\noom_score = 7\n"
        f"disabled_plugins = ['io.containerd.grpc.v1.images']\ntemp = '{tmp_path}/t'\n[debug]\nlevel = 'error'\n"
        "[plugins.'io.containerd.gc.v1.scheduler']\npause_treshold = 1\n"
        "[grpc]\ngid = 5\n[proxy_plugins]\n"
    )
    daemon.start()
    assert daemon.process is not None
    assert Path(f"/proc/{daemon.process.pid}/oom_score_adj").read_text() == "7\n"
    assert daemon.socket.stat().st_gid == Path(f"{daemon.socket}.ttrpc").stat().st_gid == 5
    assert (daemon.root / "io.containerd.content.v1.content").is_dir() and (tmp_path / "t").is_dir()
    log = daemon.log.read_text()
    assert f"configuration {tmp_path}/conf.d/1.toml: odd: unknown key, no effect" in log
    plugins = daemon.ctr("plugins", "ls").stdout
    assert "native" not in plugins and "io.containerd.grpc.v1           images" not in plugins
    assert "not implemented" in daemon.ctr("images", "ls", check=False).stderr


def test_a_required_plugin_that_is_not_there_ends_the_daemon(make_daemon: DaemonFactory) -> None:
    for uri, reason in (
        ("io.containerd.snapshotter.v1.zfs", "not registered"),
        ("io.containerd.grpc.v1.nothing", "not registered"),
        ("io.containerd.server.v1.metrics", "no address is configured"),
        ("io.containerd.grpc.v1.tasks", "disabled"),
    ):
        disabled = ["io.containerd.grpc.v1.tasks"]
        daemon = make_daemon(f"version = 2\nrequired_plugins = ['{uri}']\ndisabled_plugins = {json.dumps(disabled)}\n")
        command = ["python3", "-m", "portside.cli.main", "daemon", "-c", str(daemon.config), "--root", str(daemon.root)]
        result = run(*command, "--state", str(daemon.state), check=False)
        assert result.returncode == 1 and f"required plugin {uri}: {reason}" in result.stderr
        assert not daemon.socket.exists()
