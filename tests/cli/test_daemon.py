"""The flags of ``portside daemon`` on top of a configuration."""

from pathlib import Path

import pytest

from portside.cli.options import UsageError
from portside.cli.verbs.daemon import VERB, with_flags
from portside.daemon.config import DebugConfig, parse


def flagged(document, *words):
    values, _ = VERB.parse(words)
    return with_flags(parse(document), values)


def test_without_flags_the_file_counts():
    assert flagged({"version": 4, "root": "/r"}) == parse({"version": 4, "root": "/r"})


def test_flags_win():
    config = flagged(
        {"root": "/r", "state": "/s", "debug": {"level": "error", "format": "json"}},
        "--root", "/other", "--state=relative", "-l", "debug", "--address", "unix:///a.sock",
    )  # fmt: skip
    assert (config.root, config.state) == (Path("/other"), Path.cwd() / "relative")
    assert config.debug == DebugConfig(level="debug", format="json")
    assert (config.socket, config.ttrpc_socket) == ("/a.sock", "/a.sock.ttrpc")


def test_a_ttrpc_socket_that_was_named_stays():
    plugins = {"io.containerd.server.v1.ttrpc": {"address": "/t"}, "io.containerd.server.v1.grpc": {"gid": 3}}
    config = flagged({"plugins": plugins}, "-a", "/a")
    assert (config.socket, config.ttrpc_socket, config.grpc.gid) == ("/a", "/t", 3)


def test_a_level_that_there_is_not():
    with pytest.raises(UsageError, match="--log-level loud: want one of trace"):
        flagged({}, "-l", "loud")


def test_relative_directories_of_a_file_start_here():
    assert parse({"root": "r", "state": "s"}).root == Path.cwd() / "r"
