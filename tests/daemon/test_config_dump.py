import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from portside.core.durations import Seconds
from portside.core.plugin import METADATA, Plugin
from portside.daemon.config import DaemonConfig, DebugConfig, GrpcConfig, TtrpcConfig, load
from portside.daemon.config_dump import DROP_INS, default_text, dump_text, migrated_text
from portside.daemon.config_files import read
from portside.engine import builtin
from portside.errors import FailedPrecondition
from tests.daemon.test_config import EVERYTHING


@dataclass(frozen=True)
class Options:
    wait: Seconds = 90.0
    words: tuple[str, ...] = ("a",)


PLUGINS = [
    Plugin("test.v1", "one", lambda init: None, config=Options),
    Plugin("test.v1", "two", lambda init: None),
    Plugin(METADATA, "sqlite", lambda init: None, config=Options),
]


@pytest.fixture
def file(tmp_path):
    def write(text, name="config.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("version", [2, 3, 4])
def test_the_default_is_the_default(file, version):
    text = default_text(PLUGINS, version)
    config = load(file(text), PLUGINS)
    assert config.warnings == ()
    placed = DaemonConfig(
        grpc=GrpcConfig("/run/portside/portside.sock"), ttrpc=TtrpcConfig("/run/portside/portside.sock.ttrpc")
    )
    assert replace(config, plugins={}, timeouts={}) == placed
    document = tomllib.loads(text)
    assert document["version"] == version and document["imports"] == [DROP_INS]
    assert document["plugins"]["test.v1.one"] == {"wait": "1m30s", "words": ["a"]}
    assert "io.containerd.metadata.v1.bolt" in document["plugins"] and "test.v1.two" not in document["plugins"]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_dump_loads_as_what_was_dumped(file, version):
    config = load(file(EVERYTHING), PLUGINS)
    text = dump_text(config, PLUGINS, version)
    again = load(file(text, "again.toml"), PLUGINS)
    assert replace(again, plugins={}, timeouts={}, warnings=()) == replace(config, plugins={}, timeouts={}, warnings=())
    assert again.timeouts["io.containerd.timeout.task.state"] == 60.0
    assert again.plugins[f"{METADATA}.sqlite"]["content_sharing_policy"] == "isolated"
    assert dump_text(again, PLUGINS, version) == text


def test_imports_are_merged_into_a_dump(file, tmp_path):
    file('[plugins."test.v1.one"]\nwait = "1s"\n[plugins."test.v1.two"]\nany = {x = 1}', "other.toml")
    main = file('version = 4\nimports = ["o*.toml"]\n[plugins."test.v1.one"]\nwords = []')
    document = tomllib.loads(dump_text(load(main, PLUGINS), PLUGINS))
    assert document["imports"] == []
    assert document["plugins"]["test.v1.one"] == {"wait": "1s", "words": []}
    assert document["plugins"]["test.v1.two"] == {"any": {"x": 1}}


def test_a_dump_in_a_version_that_cannot_say_it(file):
    config = load(file("[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'x'"))
    with pytest.raises(FailedPrecondition, match="version 2"):
        dump_text(config, PLUGINS, 2)


def test_migrating_adds_nothing_and_loses_nothing(file):
    text = migrated_text(read(file('version = 2\nimports = ["x/*.toml"]\nodd = 1\n[grpc]\naddress = "/a"\ngid = 3\n')))
    assert tomllib.loads(text) == {
        "version": 4,
        "imports": ["x/*.toml"],
        "plugins": {
            "io.containerd.server.v1.grpc": {"address": "/a", "gid": 3},
            "io.containerd.server.v1.ttrpc": {"gid": 3},
        },
        "odd": 1,
    }
    assert migrated_text(read(file(text))) == text


def test_order_does_not_depend_on_the_file(file):
    one = load(file("[plugins.b.x]\na=1\n[plugins.a.y]\n[timeouts]\nz='1s'\na='1s'"), PLUGINS)
    two = load(file("[timeouts]\na='1s'\nz='1s'\n[plugins.a.y]\n[plugins.b.x]\na=1"), PLUGINS)
    assert dump_text(one, PLUGINS) == dump_text(two, PLUGINS)


def test_level_and_place(file):
    text = dump_text(replace(DaemonConfig(state=Path("/s")), debug=DebugConfig(level="warn", format="json")), ())
    document = tomllib.loads(text)
    assert document["debug"] == {"level": "warn", "format": "json"}
    assert document["plugins"]["io.containerd.server.v1.grpc"]["address"] == "/s/portside.sock"


def test_the_page_names_what_there_is():
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    named = set(re.findall(r"\[plugins\.'([^']+)'\]", page))
    assert named and named <= tomllib.loads(default_text(builtin.PLUGINS))["plugins"].keys()
