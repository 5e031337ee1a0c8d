from dataclasses import dataclass
from pathlib import Path

import pytest

from portside.core.plugin import Plugin
from portside.core.settings import ImageVerifiers, ProxyPlugin, StreamProcessor
from portside.daemon import config as configuration
from portside.daemon.config import DaemonConfig, DebugConfig, GrpcConfig, MetricsConfig, TtrpcConfig, load, parse
from portside.errors import InvalidArgument, NotFound


@dataclass(frozen=True)
class Options:
    word: str = ""


PLUGINS = [
    Plugin("test.v1", "checked", lambda init: None, config=Options),
    Plugin("test.v1", "unchecked", lambda init: None),
]

EVERYTHING = """
version = 2
root = "/r"
state = "/s"
temp = "/t"
oom_score = -999
disabled_plugins = ["io.containerd.grpc.v1.cri"]
required_plugins = ["io.containerd.metadata.v1.bolt"]

[grpc]
  address = "/g.sock"
  tcp_address = "127.0.0.1:1"
  tcp_tls_ca = "/ca"
  tcp_tls_cert = "/cert"
  tcp_tls_key = "/key"
  uid = 1
  gid = 2
  max_recv_message_size = 3
  max_send_message_size = 0
[ttrpc]
  address = "/t.sock"
  uid = 4
[debug]
  address = "/d.sock"
  gid = 5
  level = "trace"
  format = "json"
[metrics]
  address = "127.0.0.1:2"
  grpc_histogram = true
[timeouts]
  "io.containerd.timeout.task.state" = "1m0s"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "/p.sock"
  exports = {root = "/x"}
  capabilities = ["rebase"]
[stream_processors."dec"]
  accepts = ["a/b"]
  returns = "c/d"
  path = "decode"
  args = ["-x"]
  env = ["A=1"]
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "/bin"
  max_verifiers = -1
  per_verifier_timeout = "5s"
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "isolated"
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


def test_everything(file):
    assert load(file(EVERYTHING)) == DaemonConfig(
        root=Path("/r"),
        state=Path("/s"),
        temp="/t",
        grpc=GrpcConfig("/g.sock", "127.0.0.1:1", "/ca", "/cert", "/key", 1, 2, 3, 16 << 20),
        ttrpc=TtrpcConfig("/t.sock", 4),
        debug=DebugConfig("/d.sock", 0, 5, "trace", "json"),
        metrics=MetricsConfig("127.0.0.1:2", True),
        oom_score=-999,
        timeouts={"io.containerd.timeout.task.state": 60.0},
        disabled_plugins=("io.containerd.grpc.v1.cri",),
        required_plugins=("io.containerd.metadata.v1.sqlite",),
        plugins=load(file(EVERYTHING)).plugins,
        proxy_plugins={"stargz": ProxyPlugin("snapshot", "/p.sock", "", {"root": "/x"}, ("rebase",))},
        stream_processors={"dec": StreamProcessor(("a/b",), "c/d", "decode", ("-x",), ("A=1",))},
        image_verifiers=ImageVerifiers(Path("/bin"), -1, 5.0),
    )
    assert load(file(EVERYTHING)).plugins["io.containerd.metadata.v1.sqlite"] == {"content_sharing_policy": "isolated"}


def test_tables_under_both_names_are_one(file, tmp_path):
    bolt, sqlite = "io.containerd.metadata.v1.bolt", "io.containerd.metadata.v1.sqlite"
    (tmp_path / "other.toml").write_text(f"[plugins.'{bolt}']\na = 2\n[plugins.'{bolt}'.deep]\nx = 1\n")
    main = file(f"version = 4\nimports = ['other.toml']\n[plugins.'{sqlite}']\na = 1\nb = 1\ndeep = {{y = 1}}\n")
    assert load(main).plugins == {sqlite: {"a": 2, "b": 1, "deep": {"y": 1, "x": 1}}}
    assert parse({"plugins": {bolt: {"a": 1}, sqlite: {"b": 2}}}).plugins == {sqlite: {"a": 1, "b": 2}}


def test_nothing(file, monkeypatch, tmp_path):
    assert load(file("version = 4"), PLUGINS) == load(file(""), PLUGINS) == DaemonConfig()
    monkeypatch.setattr(configuration, "DEFAULT_FILE", tmp_path / "none")
    assert load(None) == DaemonConfig()
    monkeypatch.setattr(configuration, "DEFAULT_FILE", file('root = "/x"'))
    assert load(None).root == Path("/x")
    with pytest.raises(NotFound, match="none: no such file"):
        load(tmp_path / "none")


def test_sockets_follow():
    config = parse({"version": 4, "state": "/s"})
    assert (config.socket, config.ttrpc_socket) == ("/s/portside.sock", "/s/portside.sock.ttrpc")
    config = parse({"plugins": {"io.containerd.server.v1.grpc": {"address": "/a"}}})
    assert (config.socket, config.ttrpc_socket) == ("/a", "/a.ttrpc")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("root = 1", "root: want text, not 1"),
        ("oom_score = 1001", "oom_score: 1001 is not between -1000 and 1000"),
        ('[debug]\nlevel = "loud"', "debug.level: 'loud' is none of trace, debug"),
        ('[debug]\nformat = "xml"', "debug.format: 'xml' is none of text, json"),
        ("[grpc]\nuid = 'x'", "grpc.uid: want a whole number"),
        ("[grpc]\nmax_recv_message_size = -1", "grpc.max_recv_message_size: -1 is not between"),
        ("[grpc]\nmax_send_message_size = 4294967296", "grpc.max_send_message_size: 4294967296 is not between"),
        ("disabled_plugins = ['cri']\nversion = 2", "disabled_plugins: 'cri' is no plugin URI"),
        ("required_plugins = [1]", r"required_plugins\[0\]: want text"),
        ("[timeouts]\nx = 'soon'", "timeouts.x: duration 'soon'"),
        ("[proxy_plugins.x]\ntype = 'snapshot'", "proxy_plugins.x.address: is missing"),
        ("[stream_processors.x]\npath = 1", "stream_processors.x.accepts: is missing"),
        (
            "[plugins.'io.containerd.image-verifier.v1.bindir']\nmax_verifiers = 'x'",
            "plugins.*.max_verifiers: want a whole",
        ),
    ],
)
def test_wrong_values_name_file_and_key(file, text, reason):
    with pytest.raises(InvalidArgument, match=f"configuration {file(text)}: {reason}"):
        load(file(text))


def test_a_wrong_value_in_an_import_names_that_file(file, tmp_path):
    (tmp_path / "other.toml").write_text("oom_score = 'x'")
    with pytest.raises(InvalidArgument, match=r"other\.toml: oom_score"):
        load(file('imports = ["other.toml"]'))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rooot = 1", "rooot: unknown key, no effect"),
        ("version = 2\n[grpc]\nadress = '/a'", "grpc.adress: unknown key, no effect"),
        (
            "version = 4\n[grpc]\naddress = '/a'",
            "grpc.address: unknown key, no effect; version 4 has it in plugins.'io.containerd.server.v1.grpc'.address",
        ),
        ("[debug]\nlevl = 'x'", "debug.levl: unknown key, no effect"),
        ("[cgroup]\npath = '/x'", "cgroup.path: not supported, no effect"),
        (
            "version = 2\n[grpc]\nmax_send_message_size = 5",
            "max_send_message_size: not supported, no effect: answers are as long as they are",
        ),
        (
            "version = 2\n[plugins.'io.containerd.monitor.v1.cgroups']\nno_promethus = true",
            "plugins.'io.containerd.monitor.task.v1.cgroups': unknown keys, no effect: no_promethus",
        ),
        ("[timeouts]\n'io.x' = '1s'", "timeouts.'io.x': unknown key, no effect"),
        ("[proxy_plugins.x]\ntype='diff'\naddress='/a'\nextra=1", "proxy_plugins.x.extra: unknown key, no effect"),
        ("[plugins.'test.v1.checked']\nword='w'\nwrd=1", "plugins.'test.v1.checked': unknown keys, no effect: wrd"),
        ("[plugins.'test.v1.none']\na=1", "plugins: no such plugins here, no effect: 'test.v1.none'"),
        (
            "[plugins.'io.containerd.server.v1.grpc']\nadress='/a'",
            "plugins.'io.containerd.server.v1.grpc': unknown keys, no effect: adress",
        ),
    ],
)
def test_what_has_no_effect_is_told(file, text, reason):
    path = file(text)
    assert load(path, PLUGINS).warnings == (f"configuration {path}: {reason}",)


def test_what_is_known_is_not_told(file):
    text = "[plugins.'test.v1.unchecked']\nany = 1\n[cgroup]\npath = ''\n[plugins.'test.v1.checked']\nword = ''"
    assert load(file(text), PLUGINS).warnings == ()
