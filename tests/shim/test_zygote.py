from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from portside.shim import rehearsal, zygote
from portside.shim.config import Config
from portside.supervisor.zygote import CALL
from tests.support.peers import wait_for

HEAVY = (
    "asyncio", "dataclasses", "google", "inspect", "logging", "multiprocessing", "pathlib", "pickle", "shutil", "site",
    "socket", "ssl", "subprocess", "tempfile", "threading", "traceback", "typing", "urllib", "zlib",
)  # fmt: skip

_LIST_MODULES = """
import sys
sys.argv = ["zygote", "-1"]
sys.path.insert(0, {path!r})
from portside.shim import main
main.prepare()
print(*sys.modules)
"""


def test_a_zygote_is_light() -> None:
    path = str(Path(zygote.__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-E", "-c", _LIST_MODULES.format(path=path)]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "portside.runtime.container" in modules
    assert not [name for name in modules if name.partition(".")[0] in HEAVY or "_pb2" in name]


def test_it_bears_what_makes_no_sense_and_ends_with_its_daemon(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    shims, its_shims = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inherited = (theirs.fileno(), its_shims.fileno())
    command = [sys.executable, "-I", "-S", "-E", zygote.__file__, *map(str, inherited), str(tmp_path / "play")]
    process = subprocess.Popen(command, pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    theirs.close()
    its_shims.close()
    try:
        shims.settimeout(20)
        shims.send(b"without a socket")
        ours.send(b"f")
        for number, text in enumerate((b"", b"no such directory\0" * 6)):
            with socket.socket(socket.AF_UNIX) as listener:
                socket.send_fds(shims, [CALL.pack(number) + text], [listener.fileno()])
                ours.send(b"f")
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            config = Config("play", "box", str(bundle), f"{bundle}/socket").encode()
            socket.send_fds(shims, [CALL.pack(7) + config], [listener.fileno()])
            ours.send(b"f")
            data = shims.recv(4096)
        assert CALL.unpack_from(data) == (7,)
        shim = int.from_bytes(data[CALL.size :], sys.byteorder)
        wait_for(lambda: Path(f"/proc/{shim}/cwd").resolve() == bundle, "the shim to be where it belongs")
        os.kill(shim, signal.SIGKILL)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for(lambda: not children.read_text(), "the end of all that it forked")
        bundle.rmdir()
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 1
        assert len(os.listdir(f"/proc/{process.pid}/fd")) == 5
        assert not os.listdir(tmp_path)
    finally:
        ours.close()
        assert process.wait(20) == 0
        shims.close()


def test_a_rehearsal_goes_through_without_an_error(tmp_path: Path) -> None:
    day = rehearsal._Day(str(tmp_path))
    day._acts()
    assert not day._errors and day._outbox.idle
    day.play()
    before = os.listdir("/proc/self/fd")
    rehearsal.rehearse(str(tmp_path / "play"))
    assert os.listdir("/proc/self/fd") == before
