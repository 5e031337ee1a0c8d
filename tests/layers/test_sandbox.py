"""What is left to code that runs in a worker, tried out from inside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import portside

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="gives up what only root has")]

TRIES = r"""
import sys
sys.path.append(sys.argv[1])
import ctypes, errno, json, os, socket, threading
from portside.layers import sandbox
root = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)
lower = os.open(sys.argv[3], os.O_RDONLY | os.O_DIRECTORY)
libc = ctypes.CDLL(None, use_errno=True)
left = sandbox.enter(root, [lower], attributes=True)
found = {"left": left}

def attempt(name, action):
    try:
        action()
        found[name] = "ok"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
    except ImportError:
        found[name] = "ImportError"

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def thread():
    worker = threading.Thread(target=lambda: None)
    worker.start()
    worker.join()

attempt("write", lambda: os.close(os.open("made", os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=root)))
attempt("mode", lambda: os.stat("made", dir_fd=root).st_mode & 0o777 == 0o666 or os.open("/mode-is-wrong", 0))
attempt("thread", thread)
attempt("mknod", lambda: os.mknod("null", 0o20666, os.makedev(1, 3), dir_fd=root))
attempt("open device", lambda: os.open("null", os.O_RDONLY, dir_fd=root))
attempt("trusted", lambda: os.setxattr(root, "trusted.overlay.opaque", b"y"))
attempt("host", lambda: os.open("/etc/passwd", os.O_RDONLY))
attempt("up", lambda: os.open("../../../../etc/passwd", os.O_RDONLY, dir_fd=root))
attempt("lower", lambda: os.open("new", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=lower))
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/made", ["made"]))
attempt("socket", socket.socket)
attempt("mount", lambda: call("mount", b"a", b"/", b"tmpfs", 0, 0))
attempt("chroot", lambda: os.chroot("."))
attempt("unshare", lambda: call("unshare", 0x10000000))
attempt("ptrace", lambda: call("ptrace", 16, os.getppid(), 0, 0))
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("setuid", lambda: os.setuid(1000))
attempt("import", lambda: __import__("sqlite3"))
os.write(1, json.dumps(found).encode())
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root, lower = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("lower")
    source = str(Path(portside.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", TRIES, source, str(root), str(lower)], capture_output=True, check=False
    )
    assert result.stdout, result.stderr.decode()
    return json.loads(result.stdout)


def test_nothing_is_left_on_this_machine(found):
    assert found["left"] == []


@pytest.mark.parametrize("name", ["write", "mode", "thread", "mknod", "trusted"])
def test_the_work_can_be_done(found, name):
    assert found[name] == "ok"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("open device", "EACCES"), ("host", "ENOENT"), ("up", "ENOENT"), ("lower", "EROFS"), ("fork", "EPERM"),
        ("exec", "EPERM"), ("socket", "EPERM"), ("mount", "EPERM"), ("chroot", "EPERM"), ("unshare", "EPERM"),
        ("ptrace", "EPERM"), ("kill", "EPERM"), ("setuid", "EPERM"), ("import", "ImportError"),
    ],
)  # fmt: skip
def test_nothing_else_can(found, name, error):
    assert found[name] == error
