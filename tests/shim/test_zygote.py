from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from portside.shim import rehearsal, zygote

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
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-S", "-E", zygote.__file__, str(theirs.fileno()), str(tmp_path / "play")]
    process = subprocess.Popen(
        command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    theirs.close()
    try:
        ours.settimeout(20)
        ours.send(b"without a socket")
        for number, text in enumerate((b"", b"no such directory\0" * 6)):
            with socket.socket(socket.AF_UNIX) as listener:
                socket.send_fds(ours, [zygote.CALL.pack(number) + text], [listener.fileno()])
            data, fds, _, _ = socket.recv_fds(ours, 4096, 1)
            assert zygote.CALL.unpack_from(data) == (number,)
            if fds:  # else it had ended by then
                assert select.select(fds, [], [], 20)[0] == fds
                os.close(fds[0])
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 1
        end = time.monotonic() + 20
        while len(os.listdir(f"/proc/{process.pid}/fd")) > 4:  # It closes what it sent just after that.
            assert time.monotonic() < end
        assert not os.listdir(tmp_path)
    finally:
        ours.close()
        assert process.wait(20) == 0


def test_a_rehearsal_goes_through_without_an_error(tmp_path: Path) -> None:
    day = rehearsal._Day(str(tmp_path))
    day._acts()
    assert not day._errors and day._outbox.idle
    day.play()
    before = os.listdir("/proc/self/fd")
    rehearsal.rehearse(str(tmp_path / "play"))
    assert os.listdir("/proc/self/fd") == before
