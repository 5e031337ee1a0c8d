import copy

import pytest

from portside.daemon.config_versions import migrated, version_of, written_as
from portside.errors import FailedPrecondition, InvalidArgument

GRPC, TCP, TTRPC = "io.containerd.server.v1.grpc", "io.containerd.server.v1.grpc-tcp", "io.containerd.server.v1.ttrpc"


@pytest.mark.parametrize(
    ("document", "version"), [({}, 1), ({"version": 0}, 1), ({"version": 2}, 2), ({"version": 4}, 4)]
)
def test_versions(document, version):
    assert version_of(document) == version


@pytest.mark.parametrize("version", [5, -1, "2", True, 2.0])
def test_versions_nobody_knows(version):
    with pytest.raises(InvalidArgument, match="version"):
        migrated({"version": version})


def test_short_names_of_files_without_a_version():
    document = {
        "disabled_plugins": ["cri", "restart", "io.containerd.snapshotter.v1.zfs"],
        "required_plugins": ["overlayfs", "tasks-service", "bolt"],
        "plugins": {"scheduler": {"pause_threshold": 0.1}, "tasks": {}},
    }
    assert migrated(document) == {
        "version": 4,
        "disabled_plugins": [
            "io.containerd.grpc.v1.cri", "io.containerd.monitor.container.v1.restart",
            "io.containerd.snapshotter.v1.zfs",
        ],
        "required_plugins": [
            "io.containerd.snapshotter.v1.overlayfs", "io.containerd.service.v1.tasks-service",
            "io.containerd.metadata.v1.bolt",
        ],
        "plugins": {"io.containerd.gc.v1.scheduler": {"pause_threshold": 0.1}, "io.containerd.grpc.v1.tasks": {}},
    }  # fmt: skip


def test_short_names_are_none_from_version_2_on():
    assert migrated({"version": 2, "disabled_plugins": ["cri"]})["disabled_plugins"] == ["cri"]


@pytest.mark.parametrize("version", [2, 3])
def test_renamed_plugins(version):
    new = migrated(
        {
            "version": version,
            "required_plugins": ["io.containerd.monitor.v1.cgroups"],
            "plugins": {"io.containerd.internal.v1.restart": {"interval": "1s"}},
        }
    )
    assert new["required_plugins"] == ["io.containerd.monitor.task.v1.cgroups"]
    assert new["plugins"] == {"io.containerd.monitor.container.v1.restart": {"interval": "1s"}}


def test_under_both_names_the_newer_is_meant():
    old, new = "io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"
    for plugins in ({old: {"interval": "1s"}, new: {"interval": "2s"}}, {new: {"interval": "2s"}, old: {}}):
        assert migrated({"version": 3, "plugins": plugins})["plugins"] == {new: {"interval": "2s"}}


def test_core_scheduling_is_a_matter_of_the_shim():
    plugins = {"io.containerd.runtime.v2.task": {"sched_core": True, "platforms": ["linux/amd64"]}}
    plugins["io.containerd.shim.v1.manager"] = {"env": ["A=1"]}
    assert migrated({"version": 2, "plugins": plugins})["plugins"] == {
        "io.containerd.runtime.v2.task": {"platforms": ["linux/amd64"]},
        "io.containerd.shim.v1.manager": {"env": ["A=1", "SCHED_CORE=1"]},
    }


def test_cri_becomes_three():
    old = {
        "stream_server_port": "1",
        "sandbox_image": "pause",
        "max_concurrent_downloads": 5,
        "enable_selinux": True,
        "registry": {"config_path": "/etc/certs.d"},
        "cni": {"bin_dir": "/opt/cni/bin", "conf_dir": "/etc/cni"},
        "containerd": {
            "snapshotter": "native",
            "default_runtime_name": "crun",
            "runtimes": {"crun": {"runtime_type": "io.containerd.runc.v2", "sandbox_mode": "shim"}},
        },
    }
    document = {"version": 2, "plugins": {"io.containerd.grpc.v1.cri": old}}
    before = copy.deepcopy(document)
    assert migrated(document)["plugins"] == {
        "io.containerd.grpc.v1.cri": {"stream_server_port": "1"},
        "io.containerd.cri.v1.images": {
            "pinned_images": {"sandbox": "pause"},
            "max_concurrent_downloads": 5,
            "registry": {"config_path": "/etc/certs.d"},
            "snapshotter": "native",
        },
        "io.containerd.cri.v1.runtime": {
            "enable_selinux": True,
            "cni": {"bin_dirs": ["/opt/cni/bin"], "conf_dir": "/etc/cni"},
            "containerd": {
                "default_runtime_name": "crun",
                "runtimes": {"crun": {"runtime_type": "io.containerd.runc.v2", "sandboxer": "shim"}},
            },
        },
    }
    assert document == before


def test_cri_of_version_3_is_left_alone():
    plugins = {"io.containerd.grpc.v1.cri": {"stream_server_port": "1"}}
    assert migrated({"version": 3, "plugins": plugins})["plugins"] == plugins


def test_listeners_become_plugins():
    document = {
        "version": 3,
        "grpc": {"address": "/a", "uid": 5, "gid": 0, "tcp_address": "h:1", "tcp_tls_ca": "ca", "typo": 1},
        "debug": {"address": "/d", "level": "debug"},
        "metrics": {"address": "h:2", "grpc_histogram": True},
        "plugins": {GRPC: {"address": "/explicit"}},
    }
    assert migrated(document) == {
        "version": 4,
        "grpc": {"typo": 1},
        "debug": {"level": "debug"},
        "plugins": {
            GRPC: {"address": "/explicit", "uid": 5},
            TCP: {"address": "h:1", "tls_ca": "ca"},
            TTRPC: {"uid": 5},
            "io.containerd.server.v1.debug": {"address": "/d"},
            "io.containerd.server.v1.metrics": {"address": "h:2"},
            "io.containerd.metrics.v1.grpc-prometheus": {"grpc_histogram": True},
        },
    }


def test_a_ttrpc_socket_of_its_own_has_an_owner_of_its_own():
    document = {"version": 2, "grpc": {"gid": 5}, "ttrpc": {"address": "/t"}}
    assert migrated(document)["plugins"] == {GRPC: {"gid": 5}, TTRPC: {"address": "/t"}}


@pytest.mark.parametrize("document", [{"plugins": 1}, {"plugins": {"a.b": 1}}, {"grpc": []}, {"debug": "x"}])
def test_tables_that_are_none(document):
    with pytest.raises(InvalidArgument, match="want a table"):
        migrated({"version": 2, **document})


@pytest.mark.parametrize("version", [2, 3, 4])
def test_written_as_an_older_version_it_means_the_same(version):
    document = migrated(
        {
            "version": 2,
            "disabled_plugins": ["io.containerd.internal.v1.restart"],
            "grpc": {"address": "/a", "tcp_address": "h:1", "max_recv_message_size": 5},
            "ttrpc": {"address": "/t"},
            "debug": {"address": "/d", "level": "warn"},
            "plugins": {"io.containerd.monitor.v1.cgroups": {"no_prometheus": True}},
        }
    )
    older = written_as(document, version)
    assert older["version"] == version
    assert migrated(older) == document
    if version == 2:
        assert older["grpc"] == {"address": "/a", "tcp_address": "h:1", "max_recv_message_size": 5}
        assert older["plugins"] == {"io.containerd.monitor.v1.cgroups": {"no_prometheus": True}}


def test_what_version_2_cannot_say():
    document = {"version": 4, "plugins": {"io.containerd.cri.v1.images": {"snapshotter": "native"}}}
    assert written_as(document, 3)["plugins"] == document["plugins"]
    with pytest.raises(FailedPrecondition, match=r"cri\.v1\.images: cannot be written as version 2"):
        written_as(document, 2)
    with pytest.raises(InvalidArgument, match="version 1: want one of 2, 3, 4"):
        written_as(document, 1)
