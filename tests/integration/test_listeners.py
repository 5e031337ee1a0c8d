"""The daemon's listeners as configured: TCP with mutual TLS, owners and modes of its sockets, the debug socket."""

from __future__ import annotations

import asyncio
import errno
import grp
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from portside.wire.pb.containerd.services.version.v1 import version_pb2
from portside.wire.pb.google.protobuf import empty_pb2
from tests.support.certificates import Authority
from tests.support.peers import Daemon, free_port, need_root, wait_for

pytestmark = pytest.mark.root

GROUP = grp.getgrnam("daemon").gr_gid


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("certificates")
    made = Authority(directory)
    for name in ("server", "client"):
        made.sign(name)
    made.sign("expired", days=-1)
    Authority(directory, "other").sign("stranger")
    return made


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory, authority: Authority, port: int) -> Iterator[Daemon]:
    need_root()
    directory = tmp_path_factory.mktemp("d")
    path = authority.directory
    daemon = Daemon(
        directory,
        f"""version = 3
[grpc]
gid = {GROUP}
tcp_address = "127.0.0.1:{port}"
tcp_tls_ca = "{path}/ca.crt"
tcp_tls_cert = "{path}/server.crt"
tcp_tls_key = "{path}/server.key"
[ttrpc]
uid = 1
gid = {GROUP}
[debug]
address = "{directory}/debug.sock"
level = "debug"
""",
    )
    daemon.start()
    yield daemon
    daemon.stop()


def version(authority: Authority, port: int, name: str = "") -> str:
    pair = (authority.pem(f"{name}.key"), authority.pem(f"{name}.crt")) if name else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem("ca.crt"), *pair)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        call = channel.unary_unary(
            "/containerd.services.version.v1.Version/Version",
            request_serializer=empty_pb2.Empty.SerializeToString,
            response_deserializer=version_pb2.VersionResponse.FromString,
        )
        return call(empty_pb2.Empty(), timeout=20).version


def test_certificates_decide(listening: Daemon, authority: Authority, port: int) -> None:
    assert version(authority, port, "client")
    for name in ("", "stranger", "expired"):
        with pytest.raises(grpc.RpcError) as caught:
            version(authority, port, name)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/containerd.services.version.v1.Version/Version")(b"", timeout=20)


def test_owners_and_modes(listening: Daemon) -> None:
    for path, uid, gid, mode in (
        (listening.socket, 0, GROUP, 0o660),
        (Path(f"{listening.socket}.ttrpc"), 1, GROUP, 0o660),
        (listening.root.parent / "debug.sock", 0, 0, 0o600),
    ):
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (uid, gid, mode), path


def debug(daemon: Daemon, page: str) -> str:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.root.parent / "debug.sock"))
    connection.request("GET", page)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    return text


def test_what_it_is_doing(listening: Daemon) -> None:
    command = ["ctr", "-a", str(listening.socket), "events"]
    waiting = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        subscribe = "/containerd.services.events.v1.Events/Subscribe"

        def found() -> Any:
            return json.loads(debug(listening, "/debug/vars"))

        wait_for(lambda: subscribe in found()["grpc"]["calls"], "the call")
        variables = found()
        assert listening.process is not None
        assert variables["pid"] == listening.process.pid
        assert {"address": str(listening.socket), "pid": waiting.pid, "calls": 1} in variables["grpc"]["peers"]
        assert variables["engine"]["restarting"] == 0
        tasks = debug(listening, "/debug/tasks")
        assert f"1 task: {subscribe}\n" in tasks
        assert "engine/events.py" in tasks  # where it waits, not only where it began
        assert "garbage collection" in tasks
        stacks = debug(listening, "/debug/stacks")
        assert "thread MainThread" in stacks and "daemon/debug.py" in stacks
        assert debug(listening, "/debug").split() == ["/debug/tasks", "/debug/stacks", "/debug/vars"]
    finally:
        waiting.terminate()
        waiting.wait()


def test_a_signal_dumps_to_the_log_and_nowhere_else(listening: Daemon) -> None:
    assert listening.process is not None
    before = set(os.listdir("/tmp"))
    os.kill(listening.process.pid, signal.SIGUSR1)
    wait_for(lambda: 'msg="dump ends"' in listening.log.read_text(), "the dump")
    text = listening.log.read_text()
    assert "Thread 0x" in text or "Current thread" in text
    assert "garbage collection" in text.partition("dump begins")[2]
    pid = str(listening.process.pid)
    assert not {name for name in set(os.listdir("/tmp")) - before if "stack" in name or pid in name}
    assert listening.portside("version").returncode == 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[debug]\naddress = "127.0.0.1:0"', "want the path of a socket"),
        ('[metrics]\naddress = "nowhere"', "want host:port"),
        ('[metrics]\naddress = "192.0.2.1:1"', "192.0.2.1:1"),
        ('[grpc]\ntcp_address = "host"', "want host:port"),
        ('[grpc]\ntcp_address = "127.0.0.1:0"\ntcp_tls_ca = "/ca"', "tcp_tls_cert"),
        ('[grpc]\ntcp_address = "127.0.0.1:0"\ntcp_tls_cert = "/no.crt"\ntcp_tls_key = "/no.key"', "/no.crt"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, table: str, said: str) -> None:
    from portside.daemon.config import load
    from portside.daemon.host import Host
    from portside.errors import PortsideError

    need_root()
    file = tmp_path / "config.toml"
    file.write_text(f'version = 3\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n{table}\n')

    async def serve() -> None:
        host = await Host.start(load(file))
        await host.stop(0)

    with pytest.raises(PortsideError, match=said.replace(".", r"\.")):
        asyncio.run(serve())
    assert not (tmp_path / "state/portside.sock").exists()


def test_tcp_without_certificates_is_served_and_warned_of(tmp_path: Path) -> None:
    need_root()
    port = free_port()
    daemon = Daemon(tmp_path, f'version = 2\n[grpc]\ntcp_address = "127.0.0.1:{port}"\n')
    daemon.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert channel.unary_unary("/containerd.services.version.v1.Version/Version")(b"", timeout=20)
        assert "every user of this machine can be root here" in daemon.log.read_text()
    finally:
        daemon.stop()


def rows(daemon: Daemon) -> dict[tuple[str, str], str]:
    """Status by type and id, as ctr shows it."""
    lines = [line.split() for line in daemon.ctr("plugins", "ls").stdout.splitlines()[1:]]
    return {(line[0], line[1]): line[-1] for line in lines}


def test_what_listens_is_shown(listening: Daemon) -> None:
    found = rows(listening)
    server = "io.containerd.server.v1"
    assert {id: found[server, id] for id in ("grpc", "ttrpc", "grpc-tcp", "debug", "metrics")} == {
        "grpc": "ok", "ttrpc": "ok", "grpc-tcp": "ok", "debug": "ok", "metrics": "skip",
    }  # fmt: skip
    assert found["io.containerd.tracing.processor.v1", "otlp"] == "skip"
    assert found["io.containerd.monitor.container.v1", "restart"] == "ok"


def test_what_is_disabled_does_not_listen(tmp_path: Path) -> None:
    need_root()
    ports = free_port(), free_port()
    daemon = Daemon(
        tmp_path,
        f"""version = 3
disabled_plugins = ["io.containerd.server.v1.grpc-tcp", "io.containerd.server.v1.debug"]
required_plugins = ["io.containerd.server.v1.metrics"]
[grpc]
tcp_address = "127.0.0.1:{ports[0]}"
[debug]
address = "{tmp_path}/debug.sock"
[metrics]
address = "127.0.0.1:{ports[1]}"
""",
    )
    daemon.start()
    try:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", ports[0])) == errno.ECONNREFUSED
            assert probe.connect_ex(("127.0.0.1", ports[1])) == 0
        assert not (tmp_path / "debug.sock").exists()
        found = rows(daemon)
        assert ("io.containerd.server.v1", "debug") not in found
        assert found["io.containerd.server.v1", "metrics"] == "ok"
    finally:
        daemon.stop()
