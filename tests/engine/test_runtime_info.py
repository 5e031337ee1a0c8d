"""What runtimes tell of themselves: ours, OCI runtimes behind our shim, shims of others; and what is deprecated."""

import json
import os
import shutil
from pathlib import Path

import pytest

from portside.core.anymessage import RUNC_OPTIONS, AnyMessage
from portside.core.introspection import PluginStatus
from portside.engine import runtime_info
from portside.engine.deprecations import MESSAGES, PREFIX, Deprecations
from portside.engine.introspection import LocalIntrospection
from portside.engine.runtime_features import ACTIONS, ATTRIBUTES, FLAGS, OPERATORS, OTHERS, features
from portside.engine.runtime_info import FEATURES, INFO, REQUEST, RuntimeInformer
from portside.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unimplemented,
)
from portside.linux import libseccomp, seccomp
from portside.runtime import options as runtime_options
from portside.shim.record import start_time
from portside.wire.codec import decode, encode
from portside.wire.tables import containerd_runc_v1, containerd_types, google_protobuf

FORKY = Path(os.environ.get("PORTSIDE_CACHE", "/var/cache/portside")) / "forky"


def request(runtime, options=None):
    fields = {"runtime_path": str(runtime)}
    if options is not None:
        fields["options"] = {"type_url": options.type_url, "value": options.value}
    return AnyMessage(REQUEST, encode(containerd_types.RuntimeRequest, fields))


def runc_options(**fields):
    return AnyMessage(RUNC_OPTIONS, encode(containerd_runc_v1.Options, fields))


def read(info):
    assert info.type_url == INFO
    return decode(containerd_types.RuntimeInfo, info.value)


@pytest.fixture
def program(tmp_path):
    """Writes a shell script in the place of somebody's shim."""

    def make(script, name="containerd-shim-test-v1"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def test_the_features_are_those_of_the_runtime():
    assert set(ATTRIBUTES) == set(runtime_options._ATTRIBUTES)
    document = features()
    for name in document["mountOptions"]:
        assert runtime_options.parse([name], "test").data == [], name
    assert set(OTHERS) <= set(document["mountOptions"])
    assert {f"SCMP_ACT_{name}" for name in ACTIONS} == set(libseccomp._ACTIONS)
    assert {f"SCMP_CMP_{name}" for name in OPERATORS} == set(libseccomp._COMPARISONS)
    told = {f"SECCOMP_FILTER_FLAG_{name}" for name in FLAGS}
    assert told == set(seccomp._FLAGS) - {"SECCOMP_FILTER_FLAG_NEW_LISTENER"}  # which is set by the listener's path
    json.dumps(document)


async def test_our_own_runtime():
    ask = RuntimeInformer()
    for name in ("io.containerd.runc.v2", "io.containerd.portside.v2"):
        info = read(await ask(request(name)))
        assert (info["name"], info["options"], info["features"]["type_url"]) == (name, None, FEATURES)
        assert json.loads(info["features"]["value"]) == features()
    options = runc_options(systemd_cgroup=True)
    info = read(await ask(request("io.containerd.runc.v2", options)))
    assert (info["options"]["type_url"], info["options"]["value"]) == (options.type_url, options.value)


async def test_an_oci_runtime_behind_our_shim():
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    info = read(await RuntimeInformer()(request("io.containerd.runc.v2", runc_options(binary_name="runc"))))
    assert "org.opencontainers.runc.version" in json.loads(info["features"]["value"])["annotations"]
    with pytest.raises(NotFound):
        await RuntimeInformer()(request("io.containerd.runc.v2", runc_options(binary_name="no-such-runtime")))


async def test_the_shim_of_containerd():
    shim = FORKY / "usr/bin/containerd-shim-runc-v2"
    if not shim.exists() or shutil.which("runc") is None:
        pytest.skip("needs the newer containerd of script/peers, and runc")
    options = runc_options(binary_name="runc")
    info = read(await RuntimeInformer()(request(shim, options)))
    assert (info["name"], info["options"]["value"]) == ("io.containerd.runc.v2", options.value)
    assert json.loads(info["features"]["value"])["linux"]["namespaces"]


async def test_a_shim_is_asked_once_until_it_changes(program, tmp_path, monkeypatch):
    answer = encode(containerd_types.RuntimeInfo, {"name": "theirs", "annotations": {"a": "b"}})
    (tmp_path / "answer").write_bytes(answer)
    path = program(f'echo "$@" >> {tmp_path}/asked; cat > {tmp_path}/given; cat {tmp_path}/answer')
    ask = RuntimeInformer()
    options = AnyMessage("some.Options", b"\x01\x02")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for runtime in (path, "io.containerd.test.v1", path):
        info = read(await ask(request(runtime, options)))
        assert (info["name"], dict(info["annotations"])) == ("theirs", {"a": "b"})
    assert (tmp_path / "asked").read_text() == "-info\n"
    given = decode(google_protobuf.Any, (tmp_path / "given").read_bytes())
    assert (given["type_url"], given["value"]) == ("some.Options", b"\x01\x02")
    await ask(request(path))
    assert (tmp_path / "given").read_bytes() == b""
    os.utime(path, ns=(1, 1))
    await ask(request(path, options))
    assert (tmp_path / "asked").read_text() == "-info\n" * 3


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo broken >&2; exit 3", "broken"),
        ("exit 3", "status 3"),
        ("printf '\\377\\377\\377'", "cannot be read"),
        ("head -c 2000000 /dev/zero", "2000000|bytes"),
    ],
)
async def test_shims_that_answer_badly(program, script, words):
    with pytest.raises(FailedPrecondition, match=words):
        await RuntimeInformer()(request(program(script)))


async def test_a_shim_that_does_not_answer(program, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime_info, "TIMEOUT", 0.2)
    path = program(f"echo $$ > {tmp_path}/pid; sleep 1000")
    with pytest.raises(DeadlineExceeded):
        await RuntimeInformer()(request(path))
    assert not start_time(int((tmp_path / "pid").read_text()))


async def test_odd_requests(program, tmp_path):
    ask = RuntimeInformer()
    plain = tmp_path / "plain"
    plain.write_text("")
    for runtime, error in (
        ("", InvalidArgument),
        ("junk", InvalidArgument),
        ("a/b.c.d", InvalidArgument),
        ("io.containerd.not-installed.v9", NotFound),
        (tmp_path / "missing", NotFound),
        (plain, PermissionDenied if os.geteuid() else (PermissionDenied, FailedPrecondition)),
    ):
        with pytest.raises(error):
            await ask(request(runtime))
    for options in (AnyMessage("bananas", b""), AnyMessage(REQUEST, b"\xff")):
        with pytest.raises(InvalidArgument):
            await ask(options)
    with pytest.raises(InvalidArgument):
        await ask(request("io.containerd.runc.v2", AnyMessage("bananas", b"")))


async def test_plugins_are_asked_by_type_and_id():
    plugins = [PluginStatus("t", "one"), PluginStatus("t", "two", error="no luck")]

    async def inform(options):
        return AnyMessage("answer", options.value)

    introspection = LocalIntrospection("uuid", plugins, {("t", "one"): inform, ("t", "two"): inform})
    info = await introspection.plugin_info("t", "one", AnyMessage("x", b"1"))
    assert (info.plugin, info.extra) == (plugins[0], AnyMessage("answer", b"1"))
    assert (await introspection.plugin_info("t", "two")).extra is None
    with pytest.raises(FailedPrecondition, match="no luck"):
        await introspection.plugin_info("t", "two", AnyMessage("x", b""))
    with pytest.raises(NotFound):
        await introspection.plugin_info("t", "three")
    with pytest.raises(Unimplemented):
        await LocalIntrospection("uuid", plugins).plugin_info("t", "one", AnyMessage("x", b""))


async def test_what_is_deprecated():
    images = {"registry": {"mirrors": {"docker.io": {"endpoint": []}}, "config_path": ""}}
    met = Deprecations({"io.containerd.cri.v1.images": images})
    names = [found.id.removeprefix(PREFIX) for found in met.list()]
    assert "cri-registry-mirrors" in names and "cri-registry-auths" not in names
    assert all(found.message == MESSAGES[name] for found, name in zip(met.list(), names, strict=True))
    (before,) = [found for found in met.list() if found.id.endswith("mirrors")]
    met.note("cri-registry-mirrors")
    (after,) = [found for found in met.list() if found.id.endswith("mirrors")]
    assert after.last_occurrence_ns > before.last_occurrence_ns > 0
    introspection = LocalIntrospection("uuid", [], None, met.list)
    assert (await introspection.server()).deprecations == met.list()
