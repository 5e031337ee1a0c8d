"""``portside ctr`` against our daemon and against Debian's containerd, next to Debian's ctr: the same facts."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portside.cli.ctr import making
from portside.cli.ctr.main import main
from portside.cli.main import Context
from portside.client.users import User
from tests.support import images
from tests.support.ctr_server import Server, ctr_server, rows
from tests.support.peers import wait_for
from tests.support.terminals import Terminal

pytestmark = pytest.mark.root


R1, R2, R3, R4, BAD, T1, D1, C1, F1, EV = (f"c{number}-{os.getpid()}" for number in range(10))
"""Ids of containers: their control groups are the machine's, so another run must not have the same."""


with_portside = pytest.mark.parametrize("server", ["portside"], indirect=True)
"""For what does not depend on whose server it is."""


@pytest.fixture(scope="module", params=["portside", "containerd"])
def server(request: pytest.FixtureRequest, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With busybox, pulled by our command."""
    with ctr_server(request.param, busybox, tmp_path_factory.mktemp("server")) as found:
        yield found


def test_version(server: Server) -> None:
    ours, theirs = (run("version").stdout.partition("Server:")[2].split() for run in (server.ours, server.theirs))
    assert ours == theirs


def test_images(server: Server) -> None:
    assert server.image in server.ours("images", "ls", "-q").stdout.split()
    server.same("images", "ls", "-q")
    head, row = (line.split() for line in server.ours("images", "ls").stdout.splitlines())
    assert head == ["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]
    assert row == server.theirs("images", "ls").stdout.splitlines()[1].split()
    assert re.search(r"complete \(\d/\d\)", server.ours("images", "check").stdout)


@with_portside
def test_image_labels_tags_and_removal(server: Server) -> None:
    server.ours("images", "tag", server.image, "example.com/copy:v1")
    assert server.ours("images", "tag", server.image, "example.com/copy:v1", check=False).returncode == 1
    server.ours("images", "tag", "--force", server.image, "example.com/copy:v1")
    assert "mood=good" in server.ours("images", "label", "example.com/copy:v1", "mood=good").stdout
    assert "mood=good" in server.theirs("images", "ls", "name==example.com/copy:v1").stdout
    server.ours("images", "label", "example.com/copy:v1", "mood=")
    assert "mood" not in server.theirs("images", "ls", "name==example.com/copy:v1").stdout
    server.ours("images", "rm", "--sync", "example.com/copy:v1")
    assert "example.com/copy:v1" not in server.theirs("images", "ls", "-q").stdout
    missing = server.ours("images", "rm", "example.com/copy:v1", check=False)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (0, 1)


@with_portside
def test_push(server: Server, registry: str) -> None:
    copy = f"{registry}/test/by-portside-ctr:v1"
    server.ours("images", "push", "--plain-http", copy, server.image)
    server.ours("images", "pull", "--plain-http", copy)
    digests = {row[0]: row[2] for row in rows(server.ours("images", "ls").stdout)}
    assert digests[copy] == digests[server.image]
    server.ours("images", "rm", copy)


def test_content(server: Server) -> None:
    digests = [row[0] for row in server.same("content", "ls", "-q")]
    assert len(digests) >= 3
    for digest in digests[:2]:
        got = server.ours("content", "get", digest, text=False).stdout
        assert images.sha256(got) == digest
    data = "by hand\n"
    digest = images.sha256(data.encode())

    def kept() -> bool:
        """What nothing refers to may be collected before the label that keeps it is there."""
        server.ours("content", "ingest", "--expected-digest", digest, "by-hand", input=data, check=False)
        label = ("content", "label", digest, "containerd.io/gc.root=yes")
        return "containerd.io/gc.root=yes" in server.ours(*label, check=False).stdout

    wait_for(kept, "the blob to be kept")
    assert server.theirs("content", "get", digest).stdout == data
    assert "containerd.io/gc.root=yes" in server.theirs("content", "ls").stdout
    assert server.ours("content", "active").stdout.split()[:2] == ["REF", "SIZE"]
    server.ours("content", "rm", digest)
    assert digest not in server.theirs("content", "ls", "-q").stdout
    wrong = server.ours("content", "ingest", "--expected-digest", digest, "wrong", input="other", check=False)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)


def test_snapshots(server: Server, tmp_path: Path) -> None:
    parent = next(row[0] for row in server.same("snapshots", "ls") if row[-1] == "Committed")
    assert server.ours("snapshots", "prepare", "-t", str(tmp_path), "s1", parent).stdout.startswith("mount -t overlay")
    server.same("snapshots", "ls")
    server.same("snapshots", "usage", "-b", "s1")
    assert server.ours("snapshots", "tree").stdout.split() == server.theirs("snapshots", "tree").stdout.split()
    ours, theirs = (run("snapshots", "mounts", str(tmp_path), "s1").stdout for run in (server.ours, server.theirs))
    assert ours.split() == theirs.split()
    ours, theirs = (json.loads(run("snapshots", "info", "s1").stdout) for run in (server.ours, server.theirs))
    assert {key: ours[key] for key in ("Kind", "Name", "Parent")} == {
        key: theirs[key] for key in ("Kind", "Name", "Parent")
    }
    server.ours("snapshots", "commit", "s2", "s1")
    server.ours("snapshots", "view", "s3", "s2")
    server.same("snapshots", "ls")
    refused = server.ours("snapshots", "rm", "s2", check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    server.ours("snapshots", "rm", "s3", "s2")


def test_leases(server: Server) -> None:
    assert server.ours("leases", "create", "--id", "l1", "-x", "1h", "owner=me").stdout == "l1\n"
    server.same("leases", "ls")
    assert "containerd.io/gc.expire" in server.ours("leases", "ls").stdout
    server.ours("leases", "rm", "l1")
    assert "l1" not in server.theirs("leases", "ls", "-q").stdout


def test_namespaces(server: Server) -> None:
    server.ours("namespaces", "create", "n1", "team=a")
    server.same("namespaces", "ls")
    server.ours("namespaces", "label", "n1", "team=b")
    assert "team=b" in server.theirs("namespaces", "ls").stdout
    assert server.ours("-n", "n1", "containers", "ls", "-q").stdout == ""
    server.ours("namespaces", "rm", "n1")
    assert "n1" not in server.theirs("namespaces", "ls", "-q").stdout.split()
    refused = server.ours("namespaces", "rm", "default", check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


def test_plugins(server: Server) -> None:
    ours = {tuple(row[:2]): row[-1] for row in rows(server.ours("plugins", "ls").stdout)[1:]}
    theirs = {tuple(row[:2]): row[-1] for row in rows(server.theirs("plugins", "ls").stdout)[1:]}
    assert ours == theirs


def test_run(server: Server) -> None:
    script = "echo out; echo err >&2; exit 7"
    result = server.ours("run", "--rm", server.image, R1, "sh", "-c", script, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)
    assert server.ours("run", "--rm", server.image, R2, "cat", input="through\n").stdout == "through\n"
    words = ["--env", "A=b", "--cwd", "/tmp", "-u", "bob", "--hostname", "wendy"]
    out = server.ours("run", "--rm", *words, server.image, R3, "sh", "-c", "echo $A; pwd; id -un; hostname").stdout
    assert out.split() == ["b", "/tmp", "bob", "wendy"]
    big = server.ours("run", "--rm", server.image, R4, "sh", "-c", "yes 0123456789abcdef | head -c 2000000").stdout
    assert len(big) == 2_000_000
    assert server.theirs("containers", "ls", "-q").stdout == ""


@with_portside
def test_made_while_garbage_is_collected(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = making.image_user

    async def image_user(*arguments: Any) -> User:
        lease = server.theirs("leases", "create").stdout.strip()
        server.theirs("leases", "delete", "--sync", lease)
        return await looked_up(*arguments)

    monkeypatch.setattr(making, "image_user", image_user)
    context = Context()
    context.address = str(server.address)
    assert main(context, ["containers", "create", server.image, BAD, "true"]) == 0
    assert server.ours("tasks", "start", BAD).stdout == ""
    server.ours("containers", "rm", BAD)


@with_portside
def test_reader_of_the_output_goes(server: Server) -> None:
    """``… | head -1`` ends, and nothing of a container that was to be removed stays."""
    words = [*server.command, "run", "--rm", server.image, BAD, "yes"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stderr is not None
        assert client.stdout.readline() == b"y\n"
        client.stdout.close()
        assert client.stderr.read() == b""
        assert client.wait() == 1
    assert BAD not in server.ours("containers", "ls").stdout
    assert BAD not in server.ours("tasks", "ls").stdout


@with_portside
def test_run_that_fails(server: Server) -> None:
    result = server.ours("run", "--rm", server.image, BAD, "no-such-command", check=False)
    assert result.returncode == 1
    assert "no-such-command" in result.stderr
    assert server.theirs("containers", "ls", "-q").stdout == ""
    assert BAD not in server.theirs("snapshots", "ls").stdout


def test_run_with_a_terminal(server: Server) -> None:
    words = [*server.command, "run", "--rm", "-t", server.image, T1, "sh"]
    with Terminal(*words, rows=25, columns=90) as terminal:
        terminal.type(b"tty; echo $((6*7))\n")
        terminal.wait_for(b"42")
        terminal.type(b"stty size; exit 3\n")
        assert terminal.finish() == 3
    assert b"/dev/pts/0" in terminal.output
    assert b"25 90" in terminal.output


def test_a_detached_life(server: Server) -> None:
    server.ours("run", "-d", server.image, D1, "sleep", "1000")
    head, row = server.same("tasks", "ls")
    assert (head, row[0], row[2]) == (["TASK", "PID", "STATUS"], D1, "RUNNING")
    server.same("containers", "ls")
    server.same("tasks", "ps", D1, columns=1)
    assert server.ours("tasks", "exec", D1, "echo", "from exec").stdout == "from exec\n"
    assert server.ours("tasks", "exec", "--user", "1000", D1, "id", "-un").stdout == "bob\n"
    assert server.ours("tasks", "exec", D1, "sh", "-c", "exit 9", check=False).returncode == 9
    server.ours("tasks", "pause", D1)
    assert "PAUSED" in server.theirs("tasks", "ls").stdout
    server.ours("tasks", "resume", D1)
    figures = json.loads(server.ours("tasks", "metrics", "--format", "json", D1).stdout)
    assert figures["pids"]["current"] == 1
    refused = server.ours("containers", "rm", D1, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    server.ours("tasks", "kill", "-s", "KILL", D1)
    wait_for(lambda: "STOPPED" in server.theirs("tasks", "ls").stdout, "the task to stop")
    assert "137" in server.ours("tasks", "rm", D1).stderr
    server.ours("containers", "rm", D1)
    server.same("containers", "ls", "-q")
    assert D1 not in server.theirs("snapshots", "ls").stdout


@with_portside
def test_create_start_and_labels(server: Server) -> None:
    script = "echo started; exit 4"
    server.ours("containers", "create", "--label", "color=blue", server.image, C1, "sh", "-c", script)
    ours, theirs = (json.loads(run("containers", "info", C1).stdout) for run in (server.ours, server.theirs))
    for key in ("ID", "Image", "Labels", "SnapshotKey", "Snapshotter", "Spec"):
        assert ours[key] == theirs[key], key
    assert server.ours("containers", "label", C1, "color=red").stdout.count("color=red") == 1
    assert server.ours("containers", "ls", "-q", "labels.color==red").stdout.split() == [C1]
    result = server.ours("tasks", "start", C1, check=False)
    assert (result.stdout, result.returncode) == ("started\n", 4)
    server.ours("containers", "rm", C1)


@with_portside
def test_task_rm_by_force(server: Server) -> None:
    server.ours("run", "-d", server.image, F1, "sleep", "1000")
    server.ours("tasks", "rm", "-f", F1, check=False)
    server.ours("containers", "rm", F1)
    assert server.theirs("containers", "ls", "-q").stdout == ""


@with_portside
def test_events(server: Server) -> None:
    with subprocess.Popen([*server.command, "events"], stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None

        def seen() -> bool:
            server.theirs("namespaces", "label", "default", f"touched={time.monotonic_ns()}")
            return bool(select.select([watcher.stdout], [], [], 0)[0])

        wait_for(seen, "the subscription")
        server.ours("run", "--rm", server.image, EV, "true")
        topics: list[str] = []
        while not topics or topics[-1] != "/containers/delete":
            topics.append(watcher.stdout.readline().split()[5])
        watcher.terminate()
    life = ["/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"]
    assert [topic for topic in topics if topic in life] == life


@with_portside
@pytest.mark.parametrize(
    "words",
    [
        ("containers", "info"), ("tasks", "kill"), ("tasks", "ps"), ("tasks", "start"), ("snapshots", "info"),
        ("images", "label", "nobody", "a=b"), ("content", "get", "sha256:" + "0" * 64), ("tasks", "metrics"),
    ],
)  # fmt: skip
def test_unknown_names_are_one_sentence(server: Server, words: tuple[str, ...]) -> None:
    result = server.ours(*words, *(() if len(words) > 2 else ("nobody",)), check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr


@with_portside
@pytest.mark.parametrize(
    ("words", "status"),
    [(("fly",), 3), (("tasks", "fly"), 3), (("tasks", "kill"), 1), (("images", "ls", "--fly"), 1)],
)
def test_usage_errors(server: Server, words: tuple[str, ...], status: int) -> None:
    result = server.ours(*words, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (status, 1)
