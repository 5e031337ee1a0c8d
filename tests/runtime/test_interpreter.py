"""The interpreter that cannot be overwritten."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from portside.runtime import interpreter

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root"),
]

_LOOK = """
import errno, os, sys
from portside.runtime import interpreter
assert interpreter.is_protected()
held = os.open("/proc/self/exe", os.O_RDONLY)
for path in ("/proc/self/exe", f"/proc/self/fd/{held}"):
    try:
        os.open(path, os.O_WRONLY)
    except OSError as error:
        print(errno.errorcode[error.errno])
print(sys.prefix)
"""


def test_a_process_started_from_it_cannot_be_overwritten() -> None:
    assert not interpreter.is_protected()
    fd = interpreter.open_interpreter()
    try:
        result = subprocess.run(
            [sys.executable, "-c", _LOOK],
            executable=f"/proc/self/fd/{fd}",
            pass_fds=[fd],
            capture_output=True,
            text=True,
        )
    finally:
        os.close(fd)
    assert result.returncode == 0, result.stderr
    first, second, prefix = result.stdout.split()
    assert first in ("EROFS", "ETXTBSY")
    assert second in ("EROFS", "ETXTBSY")
    assert prefix == sys.prefix


def test_a_process_can_become_it() -> None:
    code = (
        "import os, sys; from portside.runtime import interpreter\n"
        "if not interpreter.is_protected(): interpreter.execute(sys.orig_argv[1:], dict(os.environ))\n"
        "print('protected', sys.argv[1:])"
    )
    result = subprocess.run([sys.executable, "-c", code, "a b"], capture_output=True, text=True)
    assert result.stdout == "protected ['a b']\n", result.stderr


def test_nothing_stays_mounted() -> None:
    with open("/proc/self/mountinfo") as file:
        before = file.read()
    fd = interpreter.open_interpreter()
    with pytest.raises(OSError) as caught:
        os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    assert caught.value.errno in (errno.EROFS, errno.ETXTBSY)
    os.close(fd)
    with open("/proc/self/mountinfo") as file:
        assert file.read() == before
