"""The specification that an image and options become; containerd's own defaults are the measure."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from portside.client.run_options import RunOptions, Volume, parse_size, security_options
from portside.client.spec import CAPABILITIES, make_spec, merge_env
from portside.client.users import User
from portside.errors import InvalidArgument
from portside.oci.image import ImageConfig
from portside.oci.platform import Platform

CONFIG = ImageConfig(Platform("linux", "amd64"), (), env=("PATH=/bin", "A=1"), entrypoint=("/e",), cmd=("c", "d"))


def spec(options: RunOptions | None = None, config: ImageConfig = CONFIG, **more: Any) -> dict[str, Any]:
    return make_spec("0123456789abcdef", "space", config, options or RunOptions(), User(), **more)


def test_safe_by_default() -> None:
    document = spec()
    process = document["process"]
    assert process["capabilities"] == {key: list(CAPABILITIES) for key in ("bounding", "effective", "permitted")}
    assert len(CAPABILITIES) == 14
    assert process["noNewPrivileges"] is True
    assert document["linux"]["cgroupsPath"] == "/space/0123456789abcdef"
    assert {"type": "network"} in document["linux"]["namespaces"]
    assert {"/sys/devices/virtual/powercap", "/proc/interrupts"} <= set(document["linux"]["maskedPaths"])
    assert document["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert document["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert document["hostname"] == "0123456789ab"
    json.dumps(document)


def test_arguments() -> None:
    def args(*words: str, entrypoint: str | None = None, config: ImageConfig = CONFIG) -> list[str]:
        document = spec(RunOptions(args=words, entrypoint=entrypoint), config)
        return document["process"]["args"]  # type: ignore[no-any-return]

    assert args() == ["/e", "c", "d"]
    assert args("x") == ["/e", "x"]
    assert args("x", entrypoint="/y") == ["/y", "x"]
    assert args(entrypoint="/y") == ["/y"]
    bare = ImageConfig(Platform("linux", "amd64"), ())
    assert args("x", config=bare) == ["x"]
    with pytest.raises(InvalidArgument, match="no command"):
        args(config=bare)


def test_environment() -> None:
    document = spec(RunOptions(env=("B=2", "A"), tty=True))
    assert document["process"]["env"] == ["PATH=/bin", "TERM=xterm", "B=2"]
    assert merge_env(["A=1", "B=2"], ["A=3"], ["C"]) == ["A=3", "B=2"]
    with pytest.raises(InvalidArgument):
        spec(RunOptions(env=("=x",)))


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), ("ALL",), set()),
        (("net_admin",), ("ALL",), {"CAP_NET_ADMIN"}),
        (("CAP_SYS_PTRACE",), ("CHOWN",), set(CAPABILITIES) - {"CAP_CHOWN"} | {"CAP_SYS_PTRACE"}),
    ],
)
def test_capabilities(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    sets = spec(RunOptions(cap_add=add, cap_drop=drop))["process"]["capabilities"]
    assert set(sets["bounding"]) == expected
    assert not sets.get("inheritable") and not sets.get("ambient")


def test_unknown_capability() -> None:
    with pytest.raises(InvalidArgument, match="NOPE"):
        spec(RunOptions(cap_add=("NOPE",)))


def test_privileged() -> None:
    device = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}
    document = spec(RunOptions(privileged=True), host_devices=[device])
    linux = document["linux"]
    assert len(document["process"]["capabilities"]["bounding"]) == 41
    assert "seccomp" not in linux and "maskedPaths" not in linux and "readonlyPaths" not in linux
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert linux["devices"] == [device]


def test_mounts_and_limits() -> None:
    options = RunOptions(
        volumes=(Volume.parse("/a:/b:ro"), Volume("/run", "/run")), tmpfs=("/t:size=1m",), memory=parse_size("64m"),
        cpus=0.5, pids=10, read_only=True, network="host",
    )  # fmt: skip
    document = spec(options)
    mounts = {mount["destination"]: mount for mount in document["mounts"]}
    assert mounts["/b"] == {
        "destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "ro", "rprivate"],
    }  # fmt: skip
    assert mounts["/run"]["type"] == "bind"
    assert mounts["/t"]["options"] == ["nosuid", "nodev", "size=1m"]
    resources = document["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20}
    assert resources["cpu"] == {"quota": 50_000, "period": 100_000}
    assert resources["pids"] == {"limit": 10}
    assert document["root"]["readonly"] is True
    assert {"type": "network"} not in document["linux"]["namespaces"]


def test_cgroup_namespace_only_where_version_2_is_alone() -> None:
    assert {"type": "cgroup"} in spec(unified_cgroups=True)["linux"]["namespaces"]
    assert {"type": "cgroup"} not in spec(unified_cgroups=False)["linux"]["namespaces"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("512b", 512), ("1k", 1024), ("1.5g", 3 << 29), ("64MiB", 64 << 20), ("2mb", 2 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1e3", "\uff11", "1_0", "1..5", ".", "1.m.", "+1", "nan", "inf"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_size(text)


def test_options_that_cannot_be() -> None:
    for options in (
        RunOptions(network="bridge"),
        RunOptions(memory=-1),
        RunOptions(args=("a\0b",)),
        RunOptions(tmpfs=("x",)),
    ):
        with pytest.raises(InvalidArgument):
            spec(options)
    for text in ("a:/b", "/a", "/a:b", ""):
        with pytest.raises(InvalidArgument):
            Volume.parse(text)
    assert security_options(["no-new-privileges=false", "seccomp=unconfined", "label=disable"]) == {
        "no_new_privileges": False,
        "seccomp": False,
    }
    with pytest.raises(InvalidArgument):
        security_options(["seccomp=/some/file"])


@pytest.mark.peer("ctr")
def test_as_containerd_makes_it() -> None:
    """Debian's ctr prints its default specification: ours differs only where we say so."""
    if not shutil.which("ctr"):
        pytest.skip("needs Debian's containerd")
    theirs = json.loads(subprocess.run(["ctr", "oci", "spec"], capture_output=True, check=True).stdout)
    ours = spec(unified_cgroups=False)
    theirs_mounts = {mount["destination"]: mount for mount in theirs["mounts"]}
    assert {mount["destination"]: mount for mount in ours["mounts"]} == theirs_mounts
    assert set(theirs["linux"]["readonlyPaths"]) == set(ours["linux"]["readonlyPaths"])
    assert set(theirs["linux"]["maskedPaths"]) <= set(ours["linux"]["maskedPaths"])
    assert set(theirs["process"]["capabilities"]["bounding"]) == set(ours["process"]["capabilities"]["bounding"])
    assert theirs["process"]["rlimits"] == ours["process"]["rlimits"]
    assert theirs["process"]["noNewPrivileges"] is True
