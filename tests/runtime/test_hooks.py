"""Hooks: when they run, where, with what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.runtime import hooks
from portside.runtime.failure import RuntimeFailure
from portside.runtime.hooks import run_hooks
from portside.runtime.spec import Hook
from tests.runtime.box import Box, Change, finish


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], **more}


def hooked(**kinds: Any) -> Change:
    return lambda spec: spec.update(hooks={kind: [each] for kind, each in kinds.items()})


def test_order_and_state(box: Box, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    outside = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    kinds = {kind: hook(f"cat > {log}/{kind}; echo {kind} >> {log}/order") for kind in outside}
    kinds["startContainer"] = hook("cat > /state; echo startContainer > /order; readlink /proc/self/ns/pid > /ns")
    with box.created(box.spec("/bin/sleep", "1000", change=hooked(**kinds))) as container:
        assert (log / "order").read_text().split() == ["prestart", "createRuntime", "createContainer"]
        assert not (box.root / "order").exists()
        container.start()
        assert (box.root / "order").read_text().split() == ["startContainer"]
        inside = (box.root / "ns").read_text().strip()
        assert inside == os.readlink(f"/proc/{container.init.pid}/ns/pid")
        pid, name = container.init.pid, container.id
    assert (log / "order").read_text().split() == list(outside)
    states = {kind: json.loads((log / kind).read_text()) for kind in outside}
    assert {kind: state["status"] for kind, state in states.items()} == {
        "prestart": "creating", "createRuntime": "creating", "createContainer": "creating", "poststart": "running",
        "poststop": "stopped",
    }  # fmt: skip
    assert states["prestart"]["pid"] == states["poststart"]["pid"] == pid
    assert "pid" not in states["poststop"]
    assert all(state["id"] == name and state["bundle"] == str(box.bundle) for state in states.values())


def test_namespaces_are_there_for_prestart(box: Box, tmp_path: Path) -> None:
    script = f"sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' | xargs -I P readlink /proc/P/ns/net > {tmp_path}/net"
    with box.created(box.spec("/bin/true", change=hooked(prestart=hook(script)))) as container:
        assert (tmp_path / "net").read_text().strip() == os.readlink(f"/proc/{container.init.pid}/ns/net")


def test_create_container_hooks_see_the_mounts(box: Box, tmp_path: Path) -> None:
    script = f"mount | grep -c {box.root}/dev > {tmp_path}/count; ls {box.root}/dev/null && exit 0; exit 1"
    with box.created(box.spec("/bin/true", change=hooked(createContainer=hook(script)))):
        assert int((tmp_path / "count").read_text()) >= 2


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_stops_the_creation(box: Box, kind: str) -> None:
    with pytest.raises(RuntimeFailure, match=rf"run {kind} hook 0: /bin/sh: exit status 3: so it goes"):
        box.sh("true", hooked(**{kind: hook("echo so it goes; exit 3")}))


def test_a_failing_start_hook_stops_the_start(box: Box) -> None:
    with box.created(box.spec("/bin/true", change=hooked(startContainer=hook("exit 4")))) as container:
        with pytest.raises(RuntimeFailure, match="run startContainer hook 0: /bin/sh: exit status 4"):
            container.start()
        assert finish(container.init) == 1


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
def test_later_failures_are_warnings(box: Box, kind: str) -> None:
    with box.created(box.spec("/bin/true", change=hooked(**{kind: hook("exit 1")}))) as container:
        container.start()
        finish(container.init)
        container.delete()
        assert container.warnings == [f"run {kind} hook 0: /bin/sh: exit status 1"]


def test_the_start_hook_has_the_environment_of_the_process(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["env"].append("MARK=set")
        spec["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo $MARK > /mark"]}]}

    assert box.sh("cat /mark", change).text == "set\n"


def test_argv0_and_environment_are_as_given(tmp_path: Path) -> None:
    entry = {
        "path": "/bin/sh",
        "args": ["mine", "-c", f"echo $0 > {tmp_path}/out; env >> {tmp_path}/out"],
        "env": ["A=1"],
    }
    run_hooks("prestart", [Hook(entry, "hook")], b"{}")
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == "mine" and "A=1" in lines and not any(line.startswith("HOME") for line in lines)


def test_a_hook_may_not_take_longer_than_it_may(tmp_path: Path) -> None:
    entry = {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}
    with pytest.raises(RuntimeFailure, match="did not end within 1 s"):
        run_hooks("prestart", [Hook(entry, "hook")], b"{}")


def test_a_hook_that_is_not_there() -> None:
    with pytest.raises(RuntimeFailure, match="run prestart hook 0: /no/hook: no such file or directory"):
        run_hooks("prestart", [Hook({"path": "/no/hook"}, "hook")], b"{}")


def test_a_hook_that_reads_nothing_and_writes_much() -> None:
    entry = {"path": "/bin/sh", "args": ["sh", "-c", "head -c 1000000 /dev/zero; exit 1"]}
    with pytest.raises(RuntimeFailure, match="exit status 1"):
        run_hooks("prestart", [Hook(entry, "hook")], b"x" * 1_000_000)


@pytest.mark.parametrize(
    ("entry", "field"),
    [({}, "path"), ({"path": "sh"}, "path"), ({"path": "/x", "timeout": 0}, "timeout"),
     ({"path": "/x", "args": [1]}, r"args\[0\]")],
)  # fmt: skip
def test_wrong_hooks(entry: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"hook\.{field}"):
        Hook(entry, "hook")


def test_a_hook_without_a_limit_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "TIMEOUT", 0.05)
    with pytest.raises(RuntimeFailure, match=r"did not end within 0\.05 s"):
        run_hooks("poststop", [Hook(hook("exec sleep 1000"), "here")], b"{}")
