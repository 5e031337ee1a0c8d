"""The newer peers of ``script/peers``: containerd 2.1 on a private root, and its ctr against any socket."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import stacks
from tests.support.peers import SLOWNESS, need_root, run

ROOT = Path(os.environ.get("PORTSIDE_CACHE", "/var/cache/portside")) / "forky"
_IN_ROOT = 'mount --rbind "$1" "$0$1" && shift && exec chroot "$0" "$@"'


def need_newer() -> Path:
    """The root; the test is skipped where it is missing."""
    need_root()
    if not (ROOT / ".complete").exists():
        pytest.skip("needs the newer containerd of script/peers")
    return ROOT


@contextmanager
def newer_containerd() -> Iterator[Path]:
    """Its socket, as a path of ours."""
    with stacks.newer(need_newer(), place=f"portside-{secrets.token_hex(4)}") as stack:
        yield stack.reach


def _command(address: Path, *words: str) -> list[str]:
    """It sees its own root and, in the same place, our directory for temporary files."""
    shared = str(Path(tempfile.gettempdir()).resolve())
    (ROOT / shared.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return ["unshare", "-m", "sh", "-c", _IN_ROOT, str(need_newer()), shared, "ctr", "-a", str(address), *words]


def newer_ctr(address: Path, *words: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """One command of it against ``address``; files are to be in our directory for temporary ones."""
    return run(*_command(address, *words), check=check, **kwargs)


def start_newer_ctr(address: Path, *words: str) -> subprocess.Popen[bytes]:
    """The same, to be ended by the caller."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(_command(address, *words), stdin=quiet, stdout=quiet, stderr=quiet)


WAIT = 20 * SLOWNESS
"""Seconds for what such a command does."""
