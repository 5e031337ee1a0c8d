"""Reading specs: no root needed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.errors import InvalidArgument
from portside.runtime.spec import MAX_ID, Hook, ProcessSpec, Spec, check_sysctl, clean, load
from tests.support import bundles


def base() -> dict[str, Any]:
    return copy.deepcopy(bundles.spec("/bin/true", cgroup="/x"))


def change(path: str, value: Any) -> dict[str, Any]:
    """The base spec with the field at ``path`` replaced, or removed if ``value`` is ``...``."""
    spec: Any = base()
    place = spec
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return spec


def test_the_base_spec() -> None:
    spec = Spec(base())
    assert spec.process.args == ["/bin/true"]
    assert spec.namespaces == {"pid": "", "ipc": "", "uts": "", "mount": "", "network": ""}
    assert [mount.destination for mount in spec.mounts] == ["/proc", "/dev", "/dev/pts", "/dev/shm"]
    assert spec.cgroups_path == "/x"


def test_unknown_fields_are_ignored() -> None:
    spec = base()
    spec["future"] = spec["process"]["future"] = spec["linux"]["intelRdt"] = {"x": 1}
    assert Spec(spec).process.cwd == "/"


def test_null_is_as_absent() -> None:
    spec = base()
    for name in ("hooks", "annotations", "hostname", "mounts"):
        spec[name] = None
    spec["linux"].update(dict.fromkeys(("maskedPaths", "readonlyPaths", "sysctl", "seccomp", "devices")))
    assert Spec(spec).mounts == []


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("process", ..., "process"),
        ("process", [], "process"),
        ("process.args", [], "process.args"),
        ("process.args", "ls", "process.args"),
        ("process.args", ["a", 1], "process.args[1]"),
        ("process.args", ["a\0b"], "process.args[0]"),
        ("process.args", ["\ud800"], "process.args[0]"),
        ("process.cwd", ..., "process.cwd"),
        ("process.cwd", 7, "process.cwd"),
        ("process.terminal", "yes", "process.terminal"),
        ("process.noNewPrivileges", 1, "process.noNewPrivileges"),
        ("process.user", "root", "process.user"),
        ("process.user.gid", MAX_ID + 1, "process.user.gid"),
        ("process.user.umask", 0o1000, "process.user.umask"),
        ("process.user.additionalGids", [0, -1], "process.user.additionalGids[1]"),
        ("process.rlimits", [{"type": "RLIMIT_FUN", "soft": 1, "hard": 1}], "process.rlimits"),
        ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}], "process.rlimits"),
        ("process.consoleSize", {"width": 70000}, "process.consoleSize.width"),
        ("root", "x", "root"),
        ("root.readonly", 0, "root.readonly"),
        ("hostname", ["a"], "hostname"),
        ("mounts", {}, "mounts"),
        ("mounts.0.destination", ..., "mounts[0].destination"),
        ("mounts.0.options", "ro", "mounts[0].options"),
        ("mounts.0.uidMappings", [{"size": 1}], "mounts[0]"),
        ("annotations", {"a": 1}, "annotations.a"),
        ("linux.namespaces.0.type", "fun", "linux.namespaces[0].type"),
        ("linux.namespaces.1.type", "pid", "linux.namespaces[1].type"),
        ("linux.namespaces.0.path", "relative", "linux.namespaces[0].path"),
        ("linux.namespaces", "pid", "linux.namespaces"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 0}], "linux.uidMappings[0].size"),
        ("linux.uidMappings", [{"containerID": 2, "hostID": 2**32 - 2, "size": 9}], "linux.uidMappings[0]"),
        ("linux.uidMappings", [{"size": 1}] * 341, "linux.uidMappings"),
        ("linux.uidMappings", [{"size": 1}], "linux.uidMappings"),
        ("linux.rootfsPropagation", "sideways", "linux.rootfsPropagation"),
        ("linux.personality", {"domain": "BSD"}, "linux.personality.domain"),
        ("linux.timeOffsets", {"realtime": {}}, "linux.timeOffsets.realtime"),
        ("linux.timeOffsets", {"boottime": {"secs": 1}}, "linux.timeOffsets"),
        ("linux.timeOffsets", {"boottime": {"nanosecs": 10**9}}, "linux.timeOffsets.boottime.nanosecs"),
        ("linux.sysctl", {"a": 1}, "linux.sysctl.a"),
        ("linux.maskedPaths", [1], "linux.maskedPaths[0]"),
        ("hooks", [], "hooks"),
        ("hooks.prestart", [{"path": "x"}], "hooks.prestart[0].path"),
    ],
)
def test_errors_name_the_field(path: str, value: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Spec(change(path, value))
    assert str(caught.value).startswith(field), caught.value


def test_rules_between_fields() -> None:
    for removed, field in (("uts", "hostname"), ("mount", "mounts")):
        spec = base()
        spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != removed]
        with pytest.raises(InvalidArgument, match=field):
            Spec(spec)


@pytest.mark.parametrize(
    ("text", "problem"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b"[]", "must be an object"), (b"[" * 100_000, "not JSON"),
     (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"), (b"\xff", "not JSON"), (b"null", "must be an object")],
)  # fmt: skip
def test_what_is_no_spec(tmp_path: Path, text: bytes, problem: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text)
    with pytest.raises(InvalidArgument, match=problem):
        load(str(file))


def test_a_spec_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("w") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidArgument, match="larger than"):
        load(str(tmp_path / "config.json"))


def test_not_a_number_is_not_a_number(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"process": {"args": ["x"], "cwd": "/", "user": {"uid": NaN}}}')
    with pytest.raises(InvalidArgument, match=r"process\.user\.uid"):
        Spec(load(str(tmp_path / "config.json")))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.data())
def test_any_json_in_any_place_is_taken_or_refused(data: st.DataObject) -> None:
    spec: Any = base()
    places = [(spec, key) for key in spec] + [(spec["linux"], key) for key in spec["linux"]]
    places += [(spec["process"], key) for key in spec["process"]] + [
        (spec["mounts"][0], key) for key in spec["mounts"][0]
    ]
    place, key = data.draw(st.sampled_from(places))
    place[key] = data.draw(_json)
    try:
        Spec(spec)
    except InvalidArgument:
        return


@given(st.text())
def test_clean_paths_stay_below_the_top(path: str) -> None:
    cleaned = clean(path)
    assert cleaned.startswith("/") and not cleaned.startswith("//")
    assert ".." not in cleaned.split("/")
    assert clean(cleaned) == cleaned


def test_sysctls_of_namespaces() -> None:
    everything = {"ipc": "", "network": "", "uts": "", "user": ""}
    for name in (
        "net.ipv4.ip_forward",
        "net/ipv4/ip_forward",
        "kernel.msgmax",
        "fs.mqueue.msg_max",
        "kernel.domainname",
    ):
        check_sysctl({name: "1"}, everything)
    for name in (
        "kernel.hostname",
        "kernel.panic",
        "fs.file-max",
        "net",
        "netx.y",
        "net..x",
        "net./x",
        "net.ipv4/../x",
    ):
        with pytest.raises(InvalidArgument):
            check_sysctl({name: "1"}, everything)


def test_a_process_alone() -> None:
    process = ProcessSpec({"args": ["x"], "cwd": "/", "env": ["A=b"], "user": {}})
    assert (process.user.uid, process.user.umask, process.oom_score_adj) == (0, -1, None)


def test_a_hook_has_its_path_as_first_argument() -> None:
    assert Hook({"path": "/bin/x"}, "hook").args == ["/bin/x"]


def test_round_trip_of_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(base()))
    assert load(str(tmp_path / "config.json")) == base()
