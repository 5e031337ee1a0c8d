"""Further processes in a running container."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from portside.errors import FailedPrecondition, InvalidArgument
from portside.linux import capabilities
from portside.runtime.failure import RuntimeFailure
from portside.runtime.process import Stdio
from tests.runtime.box import Box, finish, read_console
from tests.support import bundles


def test_it_joins_everything(box: Box) -> None:
    with box.running() as container:
        script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup"
        result = box.exec(container, "/bin/sh", "-c", script)
        assert result.code == 0
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
        assert result.lines[:6] == [os.readlink(f"/proc/{container.init.pid}/ns/{kind}") for kind in kinds]
        with open(f"/proc/{container.init.pid}/cgroup") as file:
            assert result.lines[6:] == file.read().splitlines()


def test_it_is_our_child_and_ends_as_it_says(box: Box) -> None:
    with box.running() as container:
        assert box.exec(container, "/bin/sh", "-c", "exit 9").code == 9
        made = container.exec(bundles.process("/bin/sleep", "1000"), Stdio())
        assert made.pid in container.pids() and made.pid != container.init.pid
        os.kill(made.pid, signal.SIGTERM)
        assert finish(made) in (143, 128 + signal.SIGTERM)
        os.close(made.pidfd)


def test_streams(box: Box) -> None:
    with box.running() as container:
        source, sink = os.pipe(), os.pipe()
        made = container.exec(bundles.process("/bin/cat"), Stdio(source[0], sink[1], -1))
        os.close(source[0])
        os.close(sink[1])
        os.write(source[1], b"through")
        os.close(source[1])
        assert os.read(sink[0], 100) == b"through"
        os.close(sink[0])
        assert finish(made) == 0
        os.close(made.pidfd)


def test_standard_streams_in_any_order(box: Box) -> None:
    with box.running() as container:
        reader, writer = os.pipe()
        os.dup2(writer, 0)
        try:
            made = container.exec(bundles.process("/bin/sh", "-c", "echo out; echo err >&2"), Stdio(-1, 0, 0))
            assert finish(made) == 0
            os.close(made.pidfd)
        finally:
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            os.close(writer)
        assert os.read(reader, 100) == b"out\nerr\n"
        os.close(reader)


def test_user_directory_and_environment(box: Box) -> None:
    with box.running() as container:
        script = "echo $(id -u) $(id -G) $(pwd) $HOME $A"
        result = box.exec(
            container, "/bin/sh", "-c", script, user={"username": "bob"}, cwd="/tmp", env=["PATH=/bin", "A=b"]
        )
        assert result.text == "1000 1000 2000 /tmp /home/bob b\n"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"args": ["foo"]}, 'exec: "foo": executable file not found in $PATH'),
        ({"args": ["/foo"]}, 'exec: "/foo": stat /foo: no such file or directory'),
        ({"cwd": "/nothing"}, "change to directory: /nothing: no such file or directory"),
        ({"user": {"username": "eve"}}, "unable to find user eve: no matching entries in passwd file"),
    ],
)
def test_failures(box: Box, fields: dict[str, Any], reason: str) -> None:
    with box.running() as container:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(RuntimeFailure) as caught:
            box.exec(container, "/bin/true", **fields)
        assert str(caught.value) == f"exec in container {container.id}: {reason}"
        assert container.pids() == [container.init.pid]
        assert os.listdir("/proc/self/fd") == before


def test_a_bad_interpreter_is_told_at_once(box: Box) -> None:
    (box.root / "run.sh").write_text("#!/no/shell\n")
    (box.root / "run.sh").chmod(0o755)
    with box.running() as container, pytest.raises(RuntimeFailure, match=r"exec /run\.sh: no such file"):
        box.exec(container, "/run.sh")


def test_wrong_specs(box: Box) -> None:
    with box.running() as container:
        for fields in ({"args": []}, {"cwd": "x"}, {"args": "ls"}, {"user": 7}):
            with pytest.raises(InvalidArgument, match="process"):
                box.exec(container, "/bin/true", **fields)


def test_only_in_a_running_container(box: Box) -> None:
    with box.created(box.spec("/bin/true")) as container:
        with pytest.raises(FailedPrecondition, match="not running"):
            box.exec(container, "/bin/true")
        container.start()
        finish(container.init)
        with pytest.raises(FailedPrecondition, match="not running"):
            box.exec(container, "/bin/true")


def test_capabilities_do_not_become_inheritable(box: Box) -> None:
    names = ["CAP_KILL", "CAP_CHOWN"]
    mask, _ = capabilities.mask_of(names)
    with box.running() as container:
        sets = dict.fromkeys(("bounding", "effective", "permitted"), names)
        text = box.exec(container, "/bin/grep", "^Cap", "/proc/self/status", capabilities=sets).text
        values = {line.split(":")[0]: int(line.split()[1], 16) for line in text.splitlines()}
        assert values == {"CapInh": 0, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": 0}


def test_terminal(box: Box) -> None:
    with box.running() as container:
        document = bundles.process("/bin/sh", "-c", "tty; stty size; stat -c %u:%g $(tty)", terminal=True, uid=1000)
        made = container.exec(document, Stdio(terminal=True, width=90, height=30))
        text = read_console(made.console)
        assert finish(made) == 0
        assert text.split() == ["/dev/pts/0", "30", "90", "1000:5"]
        os.close(made.console)
        os.close(made.pidfd)


def test_no_descriptors_come_along(box: Box) -> None:
    directory = os.open("/", os.O_RDONLY)
    os.set_inheritable(directory, True)
    try:
        with box.running() as container:
            made = container.exec(bundles.process("/bin/sleep", "1000"), Stdio())
            assert sorted(os.listdir(f"/proc/{made.pid}/fd")) == ["0", "1", "2"]
            os.kill(made.pid, signal.SIGKILL)
            finish(made)
            os.close(made.pidfd)
    finally:
        os.close(directory)


def test_oom_score(box: Box) -> None:
    with box.running() as container:
        assert box.exec(container, "/bin/cat", "/proc/self/oom_score_adj", oomScoreAdj=300).text == "300\n"
