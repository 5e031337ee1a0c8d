"""Whatever a file says, the answer is a configuration or one clear error; what is loaded survives being written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from portside.core.toml import dumps
from portside.daemon.config import load
from portside.daemon.config_dump import dump_text
from portside.daemon.config_files import merged
from portside.daemon.config_versions import MOVED, RENAMED, migrated
from portside.engine.builtin import PLUGINS
from portside.errors import FailedPrecondition, PortsideError

NAMES = st.sampled_from(
    sorted(
        {
            *(plugin.uri for plugin in PLUGINS), *RENAMED, *RENAMED.values(), *(plugin for _, _, plugin, _ in MOVED),
            "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.runtime.v2.task",
            "io.containerd.metadata.v1.bolt", "io.containerd.shim.v1.manager", "cri", "bolt", "x",
        }
    )
)  # fmt: skip
WORDS = """
    level format containerd cni bin_dir runtimes snapshotter registry sandbox_image pinned_images sched_core env
    interval type accepts returns path default backups startup_delay pause_threshold
"""
KEYS = st.sampled_from(
    sorted({*(key for _, key, _, _ in MOVED), *(name for *_, name in MOVED), *WORDS.split(), "odd key"})
)
SCALARS = st.sampled_from(["", "x", "1s", "info", "snapshot", 0, 1, -1, 2**40, 0.5, True, False])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3))
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from([2, 3, 4, 4, 9, "x"]),
        "root": SCALARS,
        "state": st.sampled_from(["/s", "", "s"]),
        "temp": SCALARS,
        "oom_score": st.sampled_from([0, 5, -1000, 9999]),
        "disabled_plugins": st.lists(NAMES | SCALARS, max_size=2),
        "required_plugins": VALUES,
        "imports": st.lists(st.sampled_from(["config.toml", "*.toml", "none/*", "gone.toml"]), max_size=2),
        "plugins": st.dictionaries(NAMES, TABLES | VALUES, max_size=4),
        "proxy_plugins": st.dictionaries(KEYS, TABLES, max_size=2),
        "stream_processors": st.dictionaries(KEYS, TABLES, max_size=2),
        "timeouts": st.dictionaries(KEYS, SCALARS, max_size=2),
        **dict.fromkeys(("grpc", "ttrpc", "debug", "metrics", "cgroup", "odd"), TABLES | SCALARS),
    },
)
GOOD = st.fixed_dictionaries(
    {"version": st.just(4)},
    optional={
        "disabled_plugins": st.lists(NAMES.filter(lambda name: "." in name), max_size=3),
        "plugins": st.dictionaries(NAMES, TABLES, max_size=3),
        "debug": st.fixed_dictionaries({}, optional={"level": st.sampled_from(["", "info", "warn"])}),
        "timeouts": st.dictionaries(KEYS, st.sampled_from(["1s", "2s"]), max_size=2),
    },
)


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS)
def test_a_configuration_or_one_clear_error(document):
    with TemporaryDirectory() as directory:
        file = Path(directory, "config.toml")
        file.write_text(dumps(document))
        try:
            config = load(file, PLUGINS)
        except PortsideError as error:
            assert directory in str(error)
            return
        for version in (2, 3, 4):
            again = Path(directory, "again.toml")
            try:
                again.write_text(dump_text(config, PLUGINS, version))
            except FailedPrecondition:
                assert version == 2
                continue
            loaded = load(again, PLUGINS)
            assert loaded.disabled_plugins == config.disabled_plugins
            forgotten = {"plugins": {}, "timeouts": {}, "warnings": ()}
            explicit = replace(
                config,
                grpc=replace(config.grpc, address=config.socket),
                ttrpc=replace(config.ttrpc, address=config.ttrpc_socket),
            )
            assert replace(loaded, **forgotten) == replace(explicit, **forgotten)
            assert dump_text(loaded, PLUGINS, version) == again.read_text()


@settings(max_examples=100, deadline=None)
@given(GOOD)
def test_migrating_what_is_new_changes_nothing(document):
    assert migrated(document) == document


@settings(max_examples=100, deadline=None)
@given(GOOD, GOOD, GOOD)
def test_files_may_be_merged_in_any_grouping(first, second, third):
    assert merged([merged([first, second]), third]) == merged([first, second, third])
    assert merged([first, first]) == merged([first])
