"""``portside run``, option by option, on real containers of our daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from portside.cli.attach import UNHEARD
from portside.client.fifos import fifo_directory
from tests.support import images, peers
from tests.support.leftovers import fifos
from tests.support.peers import Daemon, wait_for
from tests.support.terminals import Terminal

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def image(daemon: Daemon, busybox: str) -> str:
    """busybox, pulled."""
    daemon.portside("pull", "-q", busybox)
    return busybox


def command(daemon: Daemon, *words: str) -> list[str]:
    return [sys.executable, "-m", "portside.cli.main", "-a", str(daemon.socket), *words]


def output(daemon: Daemon, *words: str) -> str:
    """Of a container that is removed when it has ended."""
    return daemon.portside("run", "--rm", *words).stdout


def inspect(daemon: Daemon, name: str) -> dict[str, object]:
    return json.loads(daemon.portside("inspect", name).stdout)[0]


def names(daemon: Daemon, *options: str) -> list[str]:
    return [line.split()[-1] for line in daemon.portside("ps", *options).stdout.splitlines()[1:]]


@pytest.mark.parametrize("status", [0, 7, 255])
def test_exit_status_is_the_command_s(daemon: Daemon, image: str, status: int) -> None:
    result = daemon.portside("run", "--rm", image, "sh", "-c", f"echo out; echo err >&2; exit {status}", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", status)


def test_death_by_a_signal(daemon: Daemon, image: str) -> None:
    # The first process of a namespace is deaf to its own SIGKILL, so a child of it is killed.
    result = daemon.portside("run", "--rm", image, "sh", "-c", "sh -c 'kill -9 $$'; exit $?", check=False)
    assert result.returncode == 137


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("/etc/passwd",), 126, "/etc/passwd"),
        (("no-such-command",), 127, "no-such-command"),
    ],
)
def test_commands_that_cannot_run(daemon: Daemon, image: str, words: tuple[str, ...], status: int, text: str) -> None:
    result = daemon.portside("run", "--rm", image, *words, check=False)
    assert result.returncode == status, result.stderr
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert names(daemon, "-a") == []


def test_detached(daemon: Daemon, image: str) -> None:
    id = daemon.portside("run", "-d", "--name", "d1", image, "sleep", "1000").stdout.strip()
    assert len(id) == 64
    assert names(daemon) == ["d1"]
    assert inspect(daemon, "d1")["Id"] == id
    assert daemon.portside("rm", "-f", "d1").stdout == "d1\n"
    assert names(daemon, "-a") == []


def test_not_removed_without_rm(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "--name", "stays", image, "sh", "-c", "echo kept")
    assert names(daemon) == []
    assert names(daemon, "-a") == ["stays"]
    assert daemon.portside("logs", "stays").stdout == "kept\n"
    daemon.portside("rm", "stays")


def test_a_name_is_taken_once(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "-d", "--name", "only", image, "sleep", "1000")
    refused = daemon.portside("run", "-d", "--name", "only", image, "true", check=False)
    assert refused.returncode == 125
    assert "only" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    daemon.portside("rm", "-f", "only")
    assert names(daemon, "-a") == []


def test_interactive_reads_our_input(daemon: Daemon, image: str) -> None:
    data = "".join(f"line {number}\n" for number in range(20000))
    result = daemon.portside("run", "--rm", "-i", image, "cat", input=data)
    assert result.stdout == data


def test_interactive_reads_a_file(daemon: Daemon, image: str, tmp_path: Path) -> None:
    """A regular file cannot be polled."""
    file = tmp_path / "input"
    file.write_bytes(os.urandom(500_000))
    with file.open("rb") as stream:
        result = daemon.portside("run", "--rm", "-i", image, "md5sum", stdin=stream)
    assert result.stdout.split()[0] == peers.run("md5sum", str(file)).stdout.split()[0]


def test_without_interactive_there_is_no_input(daemon: Daemon, image: str) -> None:
    assert daemon.portside("run", "--rm", image, "cat", input="not for it").stdout == ""


def test_input_that_is_not_read(daemon: Daemon, image: str) -> None:
    result = daemon.portside(
        "run", "--rm", "-i", image, "sh", "-c", "head -n 1; exit 4", input="x\n" * 500_000, check=False
    )
    assert (result.stdout, result.returncode) == ("x\n", 4)


def test_output_is_exact_and_whole(daemon: Daemon, image: str) -> None:
    script = "yes 0123456789abcdef | head -c 3000000; printf 'no newline'"
    result = daemon.portside("run", "--rm", image, "sh", "-c", script, text=False)
    assert result.stdout == (b"0123456789abcdef\n" * 176471)[:3_000_000] + b"no newline"


def test_terminal_has_our_size(daemon: Daemon, image: str) -> None:
    script = "stty size; tty; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.1; done"
    with Terminal(*command(daemon, "run", "--rm", "-it", image, "sh", "-c", script), rows=31, columns=97) as terminal:
        terminal.wait_for(b"ready")
        assert b"/dev/pts/0" in terminal.output
        assert b"31 97" in terminal.output
        terminal.resize(41, 123)
        assert terminal.finish() == 3
        assert b"41 123" in terminal.output


def test_terminal_passes_keys(daemon: Daemon, image: str) -> None:
    with Terminal(*command(daemon, "run", "--rm", "-it", image, "sh")) as terminal:
        terminal.type(b"echo $((6*7))\n")
        terminal.wait_for(b"42")
        terminal.type(b"(echo st''arted; exec sleep 1000)\n")
        terminal.wait_for(b"started")
        terminal.type(b"\x03")  # Ctrl-C is a key of the container's terminal: the shell goes on.
        terminal.type(b"echo $((7*7)); exit 5\n")
        assert terminal.finish() == 5
        assert b"49" in terminal.output


def test_terminal_without_one_is_refused(daemon: Daemon, image: str) -> None:
    result = daemon.portside("run", "--rm", "-it", image, "true", check=False, input="")
    assert result.returncode == 125
    assert "terminal" in result.stderr
    assert names(daemon, "-a") == []


def test_environment(daemon: Daemon, image: str, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\nFROM_FILE=one two\n\nOURS\nREPLACED=file\n")
    words = ["--env-file", str(file), "-e", "A=1", "-eB=2", "--env=REPLACED=option", "-e", "NOT_SET_ANYWHERE"]
    result = daemon.portside("run", "--rm", *words, image, "env", env=os.environ | {"OURS": "ours"})
    lines = set(result.stdout.splitlines())
    assert {"FROM_FILE=one two", "OURS=ours", "A=1", "B=2", "REPLACED=option"} <= lines
    assert not any(line.startswith("NOT_SET") for line in lines)


def test_volumes(daemon: Daemon, image: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    words = ["-v", f"{tmp_path}:/data", "-v", f"{tmp_path}:/frozen:ro"]
    script = "cat /frozen/file; echo written >/data/new; echo no >/frozen/no || echo refused"
    result = daemon.portside("run", "--rm", *words, image, "sh", "-c", script)
    assert result.stdout == "from the host\nrefused\n"
    assert (tmp_path / "new").read_text() == "written\n"
    assert not (tmp_path / "no").exists()


def test_volume_that_is_not_there(daemon: Daemon, image: str) -> None:
    result = daemon.portside("run", "--rm", "-v", "/no/such/dir:/x", image, "true", check=False)
    assert result.returncode == 125
    assert "/no/such/dir" in result.stderr
    assert names(daemon, "-a") == []


def test_tmpfs(daemon: Daemon, image: str) -> None:
    out = output(daemon, "--tmpfs", "/scratch:size=1m", image, "sh", "-c", "mount | grep /scratch; touch /scratch/x")
    assert "tmpfs" in out
    assert "size=1024k" in out


def test_workdir(daemon: Daemon, image: str) -> None:
    assert output(daemon, "-w", "/tmp", image, "pwd") == "/tmp\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("bob", "uid=1000(bob) gid=1000(bob) groups=1000(bob),2000(extra)"),
        ("1234", "uid=1234 gid=0(root)"),
        ("1234:2000", "uid=1234 gid=2000(extra)"),
        ("bob:extra", "uid=1000(bob) gid=2000(extra)"),
    ],
)
def test_user(daemon: Daemon, image: str, user: str, expected: str) -> None:
    assert output(daemon, "-u", user, image, "id").startswith(expected)


def test_network(daemon: Daemon, image: str) -> None:
    script = "readlink /proc/self/ns/net; ip -o link | wc -l"
    none, links = output(daemon, image, "sh", "-c", script).split()
    assert none != os.readlink("/proc/self/ns/net")
    assert links == "1"
    host = output(daemon, "--network", "host", image, "readlink", "/proc/self/ns/net").strip()
    assert host == os.readlink("/proc/self/ns/net")
    refused = daemon.portside("run", "--network", "bridge", image, "true", check=False)
    assert (refused.returncode, "bridge" in refused.stderr) == (125, True)


def test_hostname(daemon: Daemon, image: str) -> None:
    assert output(daemon, "-h", "wendy", image, "hostname") == "wendy\n"


def test_entrypoint(daemon: Daemon, image: str) -> None:
    assert output(daemon, "--entrypoint", "echo", image, "one", "two") == "one two\n"


def test_image_s_own_command_entrypoint_user_and_directory(daemon: Daemon, registry: str) -> None:
    config = {"Entrypoint": ["sh", "-c"], "Cmd": ["pwd; id -u; echo $MOOD"], "User": "bob", "WorkingDir": "/tmp"}
    image = images.busybox_image(**config, Env=["PATH=/bin", "MOOD=calm"])
    reference = images.push(registry, "test/configured", "v1", image)
    assert output(daemon, reference) == "/tmp\n1000\ncalm\n"
    assert output(daemon, reference, "echo other") == "other\n"


def test_read_only(daemon: Daemon, image: str) -> None:
    out = output(daemon, "--read-only", image, "sh", "-c", "touch /x || echo refused; touch /dev/shm/x && echo memory")
    assert out == "refused\nmemory\n"


def test_capabilities(daemon: Daemon, image: str) -> None:
    script = "chown bob /tmp && echo could || echo could not"
    assert output(daemon, image, "sh", "-c", script) == "could\n"
    assert output(daemon, "--cap-drop", "chown", image, "sh", "-c", script) == "could not\n"
    assert output(daemon, "--cap-drop", "ALL", image, "grep", "CapEff", "/proc/self/status").split()[1] == "0" * 16
    added = output(daemon, "--cap-add", "SYS_TIME", image, "grep", "CapEff", "/proc/self/status").split()[1]
    assert int(added, 16) & 1 << 25
    unknown = daemon.portside("run", "--rm", "--cap-add", "FLY", image, "true", check=False)
    assert (unknown.returncode, "FLY" in unknown.stderr) == (125, True)


def cgroup_file(pid: int, controller: str, v1: str, v2: str) -> str:
    """What the kernel has in a control file of a process's cgroup."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
        if not controllers and Path(f"/sys/fs/cgroup{path}/{v2}").exists():
            return Path(f"/sys/fs/cgroup{path}/{v2}").read_text().strip()
    pytest.skip(f"no {controller} controller here")


def test_limits_are_in_the_cgroup(daemon: Daemon, image: str) -> None:
    words = ["--memory", "48m", "--pids-limit", "33", "--cpus", "0.5"]
    daemon.portside("run", "-d", "--name", "limited", *words, image, "sleep", "1000")
    pid = inspect(daemon, "limited")["State"]["Pid"]
    assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(48 << 20)
    assert cgroup_file(pid, "pids", "pids.max", "pids.max") == "33"
    assert cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    daemon.portside("rm", "-f", "limited")


def test_pids_limit_holds(daemon: Daemon, image: str) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all"
    result = daemon.portside("run", "--rm", "--pids-limit", "5", image, "sh", "-c", script, check=False)
    assert "all" not in result.stdout


def test_out_of_memory(daemon: Daemon, image: str) -> None:
    words = ["--memory", "16m", "--tmpfs", "/m", image, "sh", "-c", "dd if=/dev/zero of=/m/x bs=1M count=64"]
    assert daemon.portside("run", "--rm", *words, check=False).returncode == 137


def test_seccomp(daemon: Daemon, image: str) -> None:
    words = (image, "grep", "Seccomp:", "/proc/self/status")
    assert output(daemon, *words).split()[1] == "2"
    assert output(daemon, "--security-opt", "seccomp=unconfined", *words).split()[1] == "0"
    unknown = daemon.portside("run", "--rm", "--security-opt", "wings=on", image, "true", check=False)
    assert unknown.returncode == 125


def test_no_new_privileges(daemon: Daemon, image: str) -> None:
    words = (image, "grep", "NoNewPrivs:", "/proc/self/status")
    assert output(daemon, *words).split()[1] == "1"
    assert output(daemon, "--security-opt", "no-new-privileges=false", *words).split()[1] == "0"


def test_privileged(daemon: Daemon, image: str) -> None:
    out = output(daemon, "--privileged", image, "sh", "-c", "mount -t tmpfs x /tmp && echo mounted; ls /dev/kmsg")
    assert out.splitlines()[0] == "mounted"


def test_external_runtime(daemon: Daemon, image: str) -> None:
    peers.need_program("runc")
    result = daemon.portside("run", "--rm", "--runtime", "runc", image, "sh", "-c", "echo by runc; exit 6", check=False)
    assert (result.stdout, result.returncode) == ("by runc\n", 6)
    missing = daemon.portside("run", "--rm", "--runtime", "no-such-runtime", image, "true", check=False)
    assert missing.returncode == 125
    assert "no-such-runtime" in missing.stderr
    assert names(daemon, "-a") == []


def test_missing_image_is_pulled(daemon: Daemon, registry: str) -> None:
    reference = images.push(registry, "test/run-pulls", "v1", images.busybox_image())
    refused = daemon.portside("run", "--rm", "--pull", "never", reference, "true", check=False)
    assert refused.returncode == 125
    assert reference in refused.stderr
    result = daemon.portside("run", "--rm", reference, "echo", "pulled")
    assert result.stdout == "pulled\n"
    assert "pulling" in result.stderr
    assert daemon.portside("run", "--rm", "--pull", "never", reference, "echo", "again").stdout == "again\n"
    unknown = daemon.portside("run", "--rm", f"{registry}/test/nothing:v9", "true", check=False)
    assert unknown.returncode == 125
    assert "test/nothing:v9" in unknown.stderr


def test_pull_always_takes_the_new_one(daemon: Daemon, registry: str) -> None:
    reference = images.push(registry, "test/moves", "v1", images.busybox_image(Cmd=["echo", "old"]))
    assert output(daemon, reference) == "old\n"
    images.push(registry, "test/moves", "v1", images.busybox_image(Cmd=["echo", "new"]))
    assert output(daemon, reference) == "old\n"
    assert output(daemon, "--pull", "always", reference) == "new\n"


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "--no-such-option", "x"),
        ("run", "--memory", "lots", "x"),
        ("run", "--pull", "sometimes", "x"),
        ("fly",),
        ("exec", "x"),
        ("logs", "--tail", "some", "x"),
    ],
)
def test_usage_errors_are_one_sentence(daemon: Daemon, words: tuple[str, ...]) -> None:
    result = daemon.portside(*words, check=False)
    assert result.returncode == 125
    assert "--help" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_forwarded(daemon: Daemon, image: str, number: signal.Signals) -> None:
    script = f"trap 'echo got it; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    words = command(daemon, "run", "--rm", image, "sh", "-c", script)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(number)
        assert client.stdout.read() == b"got it\n"
        assert client.wait(20) == 9


@pytest.mark.parametrize("restart", [False, True], ids=["", "restarted"])
def test_client_killed_while_its_container_runs(
    own_daemon: Daemon, busybox: str, tmp_path: Path, restart: bool
) -> None:
    """The container goes on, and is removed when it has ended, as it was to be."""
    go_on, went_on = tmp_path / "share/go-on", tmp_path / "share/went-on"
    go_on.parent.mkdir()
    script = "echo ready; while [ ! -e /s/go-on ]; do echo tick; sleep 0.05; done; touch /s/went-on"
    words = ["run", "--rm", "--name", "orphan", "-v", f"{go_on.parent}:/s", busybox, "sh", "-c", script]
    with subprocess.Popen(
        command(own_daemon, *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        wait_for(lambda: names(own_daemon) == ["orphan"], "the start to be known")
        client.kill()
    assert names(own_daemon) == ["orphan"]
    if restart:
        own_daemon.kill()
        own_daemon.start()
        assert names(own_daemon) == ["orphan"]
    go_on.touch()
    wait_for(lambda: names(own_daemon, "-a") == [], "the container to be removed")
    assert went_on.exists()
    assert not fifos(own_daemon.state / "io.containerd.runtime.v2.task")
    assert [line for line in own_daemon.ctr("snapshots", "ls").stdout.splitlines() if "Active" in line] == []


def test_no_fifos_stay(daemon: Daemon, image: str) -> None:
    before = set(Path(fifo_directory()).iterdir())
    output(daemon, image, "true")
    daemon.portside("run", "--rm", image, "no-such-command", check=False)
    after = set(Path(fifo_directory()).iterdir())
    assert {path for path in after - before if not Path("/proc", path.name.partition("-")[0]).exists()} == set()


@pytest.mark.parametrize("output", ["stdout", "stderr"])
@pytest.mark.parametrize(("options", "left"), [(["--rm"], []), ([], ["loud"])])
def test_reader_of_the_output_goes(
    daemon: Daemon, image: str, options: list[str], left: list[str], output: str
) -> None:
    """``portside run image yes | head -1`` ends; a container that was to be removed is, another goes on."""
    redirect = ">&2" if output == "stderr" else ""
    words = command(daemon, "run", *options, "--name", "loud", image, "sh", "-c", f"yes {redirect}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, **pipes) as client:
        stream = getattr(client, output)
        assert stream.readline() == b"y\n"
        stream.close()
        said = (client.stderr if output == "stdout" else client.stdout).read()
        assert client.wait() == UNHEARD
    assert (b"portside rm -f" in said) == (bool(left) and output == "stdout")
    if left:
        assert names(daemon) == left
        daemon.portside("rm", "-f", *left)
    wait_for(lambda: names(daemon, "-a") == [], "the container to be removed")


def test_reader_of_an_exec_s_output_goes(daemon: Daemon, image: str) -> None:
    daemon.portside("run", "-d", "--name", "host", image, "sleep", "1000")
    with subprocess.Popen(
        command(daemon, "exec", "host", "yes"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"y\n"
        client.stdout.close()
        assert client.wait() == UNHEARD
    wait_for(lambda: "yes" not in daemon.portside("exec", "host", "ps").stdout, "the exec to end")
    daemon.portside("rm", "-f", "host")


def test_repeated_interrupts_leave_a_container_that_does_not_hear(daemon: Daemon, image: str) -> None:
    """It hears the first, which shows that the command hands them on, and is deaf from then on."""
    script = "trap 'trap \"\" INT; echo heard' INT; echo ready; while :; do sleep 0.1; done"
    with Terminal(*command(daemon, "run", "--rm", "--name", "deaf", image, "sh", "-c", script)) as terminal:
        terminal.wait_for(b"ready")
        terminal.type(b"\x03")
        terminal.wait_for(b"heard")

        def left() -> bool:
            if terminal.process.poll() is None:
                terminal.type(b"\x03")
                return False
            return True

        wait_for(left, "the command to leave")
        assert terminal.finish() == 130
        assert b"portside rm -f" in terminal.output
    assert "deaf" in names(daemon)
    daemon.portside("rm", "-f", "deaf")


def test_help_is_a_verb(daemon: Daemon) -> None:
    assert daemon.portside("help", "run").stdout == daemon.portside("run", "--help").stdout
    assert daemon.portside("help").stdout == daemon.portside("--help").stdout
