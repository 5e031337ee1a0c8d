"""The worker inside a user namespace: whiteouts as the kernel wants them there, no devices, the rest as ever."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import portside

SCRIPT = r"""
import asyncio, json, os, sys
sys.path[:0] = sys.argv[2:4]
from portside.layers.workers import apply_layer, compare_trees
from portside.snapshots.overlay import in_user_namespace
from tests.layers.archives import info, make
import tarfile

async def main():
    root = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
    blob, out = os.memfd_create("blob"), os.memfd_create("out")
    os.write(blob, make(
        (info("a", mode=0o4755), b"x"), (info(".wh.gone"), b""), (info("d/.wh..wh..opq"), b""),
        (info("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
    ))
    applied = await apply_layer("x", "application/vnd.oci.image.layer.v1.tar", blob, root,
                                whiteouts="user-overlay", devices=not in_user_namespace())
    compared = await compare_trees([], [root], out, compression="")
    print(json.dumps([in_user_namespace(), applied.ignored, applied.whiteouts, compared.entries]))

asyncio.run(main())
"""


def test_in_a_user_namespace(tmp_path):
    paths = [str(Path(portside.__file__).parents[1]), str(Path(__file__).parents[2])]
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", SCRIPT, str(tmp_path), *paths]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "unshare failed" in result.stderr:
        pytest.skip("no user namespaces here")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [True, 1, 2, 2]
    assert sorted(os.listdir(tmp_path)) == ["a", "d", "gone"]
    assert stat.S_IMODE(os.lstat(tmp_path / "a").st_mode) == 0o4755
    assert os.lstat(tmp_path / "gone").st_rdev == 0 and stat.S_ISCHR(os.lstat(tmp_path / "gone").st_mode)
    assert os.getxattr(tmp_path / "d", "user.overlay.opaque") == b"y"
