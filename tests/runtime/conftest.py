"""A box to run containers in: a base spec over a busybox root, one change, and a look from inside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portside.linux import process
from tests.runtime.box import Box
from tests.support import bundles
from tests.support.children import in_child


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that make containers are those that ask for a box."""
    for item in items:
        if "box" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs to be root"))
            elif not bundles.has_busybox():
                item.add_marker(pytest.mark.skip(reason="needs Debian's busybox-static"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Where other tests of this run have left threads behind, the test runs in a forked child, which has one."""
    if "box" not in pyfuncitem.fixturenames or process.thread_count() == 1:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    skipped = in_child(lambda: _skipped(pyfuncitem.obj, arguments))
    if skipped:
        pytest.skip(skipped)
    return True


def _skipped(test: Callable[..., object], arguments: dict[str, Any]) -> str:
    """Run the test; why it was skipped, if it was."""
    try:
        test(**arguments)
    except pytest.skip.Exception as skip:
        return str(skip)
    return ""


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.make_rootfs(tmp_path_factory.mktemp("busybox") / "rootfs")


@pytest.fixture
def box(tmp_path: Path, busybox_root: Path) -> Iterator[Box]:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    shutil.copytree(busybox_root, bundle / "rootfs", symlinks=True)
    made = Box(bundle)
    yield made
    made.forget_cgroups()
