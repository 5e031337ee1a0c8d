"""The verbs of ``portside`` but for run: on containers and images of our daemon, as a person would type them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.client.labels import LOG
from tests.support import images, peers
from tests.support.peers import Daemon, wait_for
from tests.support.terminals import Terminal

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def image(daemon: Daemon, busybox: str) -> str:
    """busybox, pulled."""
    daemon.portside("pull", "-q", busybox)
    return busybox


@pytest.fixture
def box(daemon: Daemon, image: str) -> Iterator[str]:
    """The name of a running container that ends at SIGTERM with 3."""
    script = "trap 'exit 3' TERM; while :; do sleep 0.1; done"
    daemon.portside("run", "-d", "--name", "box", "-e", "MINE=yes", image, "sh", "-c", script)
    yield "box"
    daemon.portside("rm", "-f", "box", check=False)


def command(daemon: Daemon, *words: str) -> list[str]:
    return [sys.executable, "-m", "portside.cli.main", "-a", str(daemon.socket), *words]


def inspect(daemon: Daemon, name: str) -> dict[str, dict[str, object]]:
    return json.loads(daemon.portside("inspect", name).stdout)[0]


def state(daemon: Daemon, name: str) -> object:
    return inspect(daemon, name)["State"]["Status"]


# ps and inspect


def test_ps(daemon: Daemon, image: str, box: str) -> None:
    daemon.portside("run", "-l", "team=a", "--name", "ended", image, "sh", "-c", "exit 4", check=False)
    head, row = daemon.portside("ps").stdout.splitlines()
    assert head.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]
    id = inspect(daemon, box)["Id"]
    assert row.startswith(id[:12] + " ")
    assert image in row
    assert "Running" in row
    ids = daemon.portside("ps", "-a", "-q", "--no-trunc").stdout.split()
    assert ids == [inspect(daemon, name)["Id"] for name in ("ended", "box")]
    filters = {
        "status=exited": "ended", "status=running": "box", "name=end": "ended", "exited=4": "ended", "exited=5": "",
        "label=team": "ended", "label=team=a": "ended", "label=team=b": "", f"id={id[:9]}": "box",
    }  # fmt: skip
    for text, expected in filters.items():
        rows = daemon.portside("ps", "-a", "-f", text).stdout.splitlines()[1:]
        assert [row.split()[-1] for row in rows] == expected.split(), text
    assert "Exited (4)" in daemon.portside("ps", "-a", "-f", "name=ended").stdout
    refused = daemon.portside("ps", "-f", "weather=fine", check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    daemon.portside("rm", "ended")


def test_inspect_container(daemon: Daemon, image: str, box: str) -> None:
    found = inspect(daemon, box)
    assert found["Name"] == "box"
    assert found["Image"] == image
    assert found["State"]["Status"] == "running"
    assert Path(f"/proc/{found['State']['Pid']}").exists()
    assert found["Spec"]["process"]["args"][0] == "sh"
    by_prefix, by_id = inspect(daemon, found["Id"][:7]), inspect(daemon, found["Id"])
    assert by_prefix["Id"] == by_id["Id"] == found["Id"]


def test_inspect_image(daemon: Daemon, image: str) -> None:
    found = inspect(daemon, image)
    assert found["Name"] == image
    assert found["Config"]["Cmd"] == ["sh"]
    assert len(found["Layers"]) == len(found["DiffIds"]) == 1


# exec


def test_exec_status_and_streams(daemon: Daemon, box: str) -> None:
    result = daemon.portside("exec", box, "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 9)


def test_exec_options(daemon: Daemon, box: str) -> None:
    script = "echo $MINE $HERS; pwd; id -un"
    result = daemon.portside("exec", "-e", "HERS=too", "-w", "/tmp", "-u", "bob", box, "sh", "-c", script)
    assert result.stdout.split() == ["yes", "too", "/tmp", "bob"]
    assert daemon.portside("exec", "-u", "77:88", box, "id", "-G").stdout == "88\n"


def test_exec_input(daemon: Daemon, box: str) -> None:
    data = "x" * 300_000
    assert daemon.portside("exec", "-i", box, "cat", input=data).stdout == data


def test_exec_terminal(daemon: Daemon, box: str) -> None:
    words = command(daemon, "exec", "-it", box, "sh", "-c", "tty; stty size; read line; echo got $line; exit 2")
    with Terminal(*words, rows=22, columns=66) as terminal:
        terminal.wait_for(b"22 66")
        terminal.type(b"a word\n")
        assert terminal.finish() == 2
        assert b"/dev/pts/" in terminal.output
        assert b"got a word" in terminal.output


def test_exec_detached(daemon: Daemon, box: str) -> None:
    daemon.portside("exec", "-d", box, "sh", "-c", "echo done >/tmp/detached")
    wait_for(lambda: "done" in daemon.portside("exec", box, "cat", "/tmp/detached", check=False).stdout, "the exec")
    wait_for(lambda: remembered(daemon, box) == [""], "the exec to be gone and forgotten")


def test_exec_whose_client_was_killed(daemon: Daemon, box: str) -> None:
    words = command(daemon, "exec", box, "sh", "-c", "echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.kill()
    daemon.portside("exec", box, "touch", "/tmp/go")
    wait_for(lambda: remembered(daemon, box) == [""], "the exec to be gone and forgotten")


def remembered(daemon: Daemon, box: str) -> list[str]:
    """The exec ids (and the empty one of the first process) that the container's shim has on record."""
    found = daemon.state.glob(f"io.containerd.runtime.v2.task/*/{inspect(daemon, box)['Id']}/state.json")
    return sorted(json.loads(next(found).read_text())["processes"])


def test_exec_that_cannot_run(daemon: Daemon, box: str) -> None:
    missing = daemon.portside("exec", box, "no-such-command", check=False)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (127, 1)
    directory = daemon.portside("exec", box, "/tmp", check=False)
    assert (directory.returncode, len(directory.stderr.splitlines())) == (126, 1)
    nobody = daemon.portside("exec", "-u", "nobody-here", box, "true", check=False)
    assert (nobody.returncode, "nobody-here" in nobody.stderr) == (126, True)


def test_exec_in_what_does_not_run(daemon: Daemon, box: str) -> None:
    daemon.portside("stop", box)
    refused = daemon.portside("exec", box, "true", check=False)
    assert refused.returncode == 126
    assert len(refused.stderr.splitlines()) == 1


# logs


def test_logs_are_exact_and_keep_the_streams_apart(daemon: Daemon, image: str) -> None:
    script = "printf 'one\\ntwo'; printf 'bad\\n' >&2; printf '\\000\\377end'"
    daemon.portside("run", "--name", "logged", image, "sh", "-c", script, text=False)
    result = daemon.portside("logs", "logged", text=False)
    assert result.stdout == b"one\ntwo\x00\xffend"
    assert result.stderr == b"bad\n"
    daemon.portside("rm", "logged")


def test_logs_tail_and_times(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "--name", "tailed", image, "seq", "1", "100")
    assert daemon.portside("logs", "--tail", "3", "tailed").stdout.split() == ["98", "99", "100"]
    assert daemon.portside("logs", "--tail", "0", "tailed").stdout == ""
    assert daemon.portside("logs", "-n", "1000", "tailed").stdout.split() == [str(i) for i in range(1, 101)]
    line = daemon.portside("logs", "-t", "-n", "1", "tailed").stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z 100\n", line)
    assert len(daemon.portside("logs", "--since", "1h", "tailed").stdout.split()) == 100
    assert daemon.portside("logs", "--until", "1h", "tailed").stdout == ""
    daemon.portside("rm", "tailed")


def test_logs_follow_until_the_end(daemon: Daemon, image: str, tmp_path: Path) -> None:
    script = "seq 1 5; while [ ! -e /s/go-on ]; do sleep 0.02; done; seq 6 10; printf last"
    daemon.portside("run", "-d", "--name", "followed", "-v", f"{tmp_path}:/s", image, "sh", "-c", script)
    with subprocess.Popen(command(daemon, "logs", "-f", "followed"), stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert [follower.stdout.readline() for _ in range(5)] == [b"%d\n" % i for i in range(1, 6)]
        (tmp_path / "go-on").touch()
        assert follower.stdout.read() == b"".join(b"%d\n" % i for i in range(6, 11)) + b"last"
        assert follower.wait(20) == 0
    daemon.portside("rm", "followed")


def test_logs_of_a_terminal(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "-d", "-t", "--name", "tty", image, "sh", "-c", "tty; echo err >&2")
    daemon.portside("wait", "tty")
    assert daemon.portside("logs", "tty", text=False).stdout == b"/dev/pts/0\r\nerr\r\n"
    daemon.portside("rm", "tty")


# stop, kill, pause, wait, start, rm


def test_stop_is_graceful(daemon: Daemon, box: str) -> None:
    assert daemon.portside("stop", box).stdout == "box\n"
    assert inspect(daemon, box)["State"]["ExitCode"] == 3
    assert daemon.portside("stop", box).stdout == "box\n"  # It is stopped, so all is well.


def test_stop_kills_in_the_end(daemon: Daemon, image: str) -> None:
    script = "trap 'echo deaf' TERM; echo ready; while :; do sleep 0.1; done"
    daemon.portside("run", "-d", "--name", "deaf", image, "sh", "-c", script)
    wait_for(lambda: "ready" in daemon.portside("logs", "deaf").stdout, "the trap")
    daemon.portside("stop", "-t", "1", "deaf")
    assert inspect(daemon, "deaf")["State"]["ExitCode"] == 137
    assert "deaf" in daemon.portside("logs", "deaf").stdout
    daemon.portside("rm", "deaf")


def test_stop_signal_of_the_container(daemon: Daemon, image: str) -> None:
    script = "trap 'exit 44' USR1; echo ready; while :; do sleep 0.1; done"
    daemon.portside("run", "-d", "--name", "own", "--stop-signal", "USR1", image, "sh", "-c", script)
    wait_for(lambda: "ready" in daemon.portside("logs", "own").stdout, "the trap")
    daemon.portside("stop", "own")
    assert inspect(daemon, "own")["State"]["ExitCode"] == 44
    daemon.portside("rm", "own")


def test_kill(daemon: Daemon, box: str) -> None:
    refused = daemon.portside("kill", "-s", "NOSUCHSIGNAL", box, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    daemon.portside("kill", "-s", "TERM", box)
    assert daemon.portside("wait", box).stdout == "3\n"
    refused = daemon.portside("kill", box, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


def test_kill_kills_by_default(daemon: Daemon, box: str) -> None:
    daemon.portside("kill", box)
    assert daemon.portside("wait", box).stdout == "137\n"


def test_pause(daemon: Daemon, box: str) -> None:
    daemon.portside("pause", box)
    assert state(daemon, box) == "paused"
    refused = daemon.portside("exec", box, "true", check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (126, 1)
    daemon.portside("unpause", box)
    assert state(daemon, box) == "running"
    assert daemon.portside("exec", box, "echo", "thawed").stdout == "thawed\n"


def test_a_paused_container_can_be_stopped_and_removed(daemon: Daemon, image: str, box: str) -> None:
    daemon.portside("pause", box)
    daemon.portside("stop", "-t", "5", box)
    assert state(daemon, box) == "exited"
    daemon.portside("run", "-d", "--name", "frozen", image, "sleep", "1000")
    daemon.portside("pause", "frozen")
    daemon.portside("rm", "-f", "frozen")


def test_wait(daemon: Daemon, image: str, box: str) -> None:
    with subprocess.Popen(command(daemon, "wait", box), stdout=subprocess.PIPE) as waiter:
        daemon.portside("kill", "-s", "TERM", box)
        assert waiter.communicate(timeout=20)[0] == b"3\n"


def test_start_again(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "--name", "again", image, "sh", "-c", "echo x >>/count; wc -l </count")
    daemon.portside("start", "again")
    assert daemon.portside("wait", "again").stdout == "0\n"
    assert daemon.portside("logs", "again").stdout.split()[-1] == "2"
    daemon.portside("rm", "again")


def test_rm(daemon: Daemon, box: str) -> None:
    refused = daemon.portside("rm", box, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert state(daemon, box) == "running"
    log = Path(str(inspect(daemon, box)["Labels"][LOG]))
    assert log.exists()
    assert daemon.portside("rm", "-f", box).stdout == "box\n"
    assert not log.parent.exists()
    assert daemon.portside("ps", "-a", "-q").stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("inspect",), ("logs",), ("logs", "-f"), ("stop",), ("kill",), ("pause",), ("unpause",), ("rm",), ("rm", "-f"),
        ("wait",), ("start",), ("stats", "--no-stream"), ("rmi",), ("push",),
    ],
)  # fmt: skip
def test_unknown_names_are_one_sentence(daemon: Daemon, words: tuple[str, ...]) -> None:
    result = daemon.portside(*words, "nobody", check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "nobody" in result.stderr
    assert result.stdout == ""


def test_of_several_names_all_are_tried(daemon: Daemon, image: str) -> None:
    for name in ("m1", "m2"):
        daemon.portside("run", "-d", "--name", name, image, "sleep", "1000")
    result = daemon.portside("rm", "-f", "m1", "nobody", "m2", check=False)
    assert (result.returncode, result.stdout) == (1, "m1\nm2\n")
    assert len(result.stderr.splitlines()) == 1


# stats, events, info, version


def test_stats(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "-d", "--name", "busy", "-m", "64m", image, "sh", "-c", "while :; do :; done")
    daemon.portside("run", "-d", "--name", "idle", image, "sleep", "1000")
    head, *rows = daemon.portside("stats", "--no-stream", "busy", "idle").stdout.splitlines()
    assert head.split("  ")[0] == "CONTAINER ID"
    cells = {row.split("   ")[1].strip(): re.split(r" {3,}", row) for row in rows}
    assert set(cells) == {"busy", "idle"}
    assert 5 < float(cells["busy"][2]) <= 150
    assert float(cells["idle"][2]) < 5
    assert cells["busy"][3].endswith("/ 67.1 MB")
    assert cells["idle"][3].endswith("/ none")
    assert cells["idle"][4] == "1"
    everything = daemon.portside("stats", "--no-stream").stdout
    assert "busy" in everything
    assert "idle" in everything
    daemon.portside("rm", "-f", "busy", "idle")


def test_events_tell_a_life_in_order(daemon: Daemon, image: str) -> None:
    words = command(daemon, "events", "-f", "namespace==default")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        # A subscriber has no sign of being ready: something harmless is repeated until it is seen.
        first = _first_line(watcher, daemon)
        assert first["topic"] == "/namespaces/update"
        daemon.portside("run", "--rm", "--name", "life", image, "true")
        topics: list[str] = []
        while not topics or topics[-1] != "/containers/delete":
            topics.append(json.loads(watcher.stdout.readline())["topic"])
        watcher.terminate()
    life = ["/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"]
    assert [topic for topic in topics if topic in life] == life


def _first_line(watcher: subprocess.Popen[str], daemon: Daemon) -> dict[str, object]:
    import select

    def seen() -> bool:
        daemon.ctr("namespaces", "label", "default", f"touched={time.monotonic_ns()}")
        return bool(select.select([watcher.stdout], [], [], 0)[0])

    wait_for(seen, "the subscription")
    assert watcher.stdout is not None
    return json.loads(watcher.stdout.readline())


def test_info_and_version(daemon: Daemon) -> None:
    lines = dict(re.split(r":\s+", line, maxsplit=1) for line in daemon.portside("info").stdout.splitlines())
    assert lines["Root"] == str(daemon.root)
    assert lines["Snapshotter"] == "overlayfs"
    client, server = re.findall(r"Version: +(\S+)", daemon.portside("version").stdout)
    assert server == lines["Version"].split()[0]
    assert client in server


def test_no_daemon_is_one_sentence(tmp_path: Path) -> None:
    for words in (("ps",), ("run", "x"), ("pull", "x"), ("ctr", "version"), ("events",)):
        result = peers.run(
            sys.executable, "-m", "portside.cli.main", "-a", str(tmp_path / "nothing.sock"), *words, check=False
        )
        assert result.returncode == (125 if words[0] == "run" else 1), result
        assert len(result.stderr.splitlines()) == 1
        assert "nothing.sock" in result.stderr


# images


def test_images_and_rmi(daemon: Daemon, image: str, registry: str) -> None:
    reference = images.push(registry, "test/listed", "v1", images.busybox_image(Labels={"a": "b"}))
    assert re.fullmatch(rf"{re.escape(reference)}@sha256:[0-9a-f]{{64}}\n", daemon.portside("pull", reference).stdout)
    head, *rows = daemon.portside("images").stdout.splitlines()
    assert head.split() == ["IMAGE", "ID", "CREATED", "SIZE"]
    assert [row.split()[0] for row in rows] == sorted([image, reference])
    id = inspect(daemon, reference)["Id"].removeprefix("sha256:")
    assert daemon.portside("images", "-q", reference).stdout == id[:12] + "\n"
    daemon.portside("run", "--name", "user", reference, "true")
    refused = daemon.portside("rmi", reference, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    daemon.portside("rm", "user")
    assert reference in daemon.portside("rmi", reference).stdout
    assert reference not in daemon.portside("images").stdout
    assert daemon.portside("run", "--rm", image, "echo", "still").stdout == "still\n"


def test_push_and_pull_again(daemon: Daemon, image: str, registry: str) -> None:
    copy = f"{registry}/test/pushed:v2"
    daemon.ctr("images", "tag", image, copy)
    pushed = daemon.portside("push", copy).stdout
    daemon.portside("rmi", copy)
    assert daemon.portside("pull", "-q", copy).stdout == pushed
    assert daemon.portside("run", "--rm", copy, "echo", "back").stdout == "back\n"


def test_pull_shows_progress_on_a_terminal(daemon: Daemon, registry: str) -> None:
    reference = images.push(registry, "test/shown", "v1", images.busybox_image(Labels={"c": "d"}))
    with Terminal(*command(daemon, "pull", reference)) as terminal:
        assert terminal.finish() == 0
    assert reference.encode() in terminal.output
    assert b"Traceback" not in terminal.output
