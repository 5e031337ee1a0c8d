"""Small file systems, and filling them."""

import contextlib
import errno
import os
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(target, size):
    """A tmpfs of ``size`` (as mount(8) has it) at ``target``, a directory to be made; skips without root."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "portside-test", target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", target], check=True)


def fill_up(directory):
    """Leave no space; the file that took it, to be deleted for there to be space again."""
    filler = directory / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 512):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler
