"""Services over real stores, without the parts of an engine that run containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from portside.core.services import Services
from portside.engine.services import LocalServices
from tests.contracts.local import LocalBackend


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    backend = LocalBackend(tmp_path / "root")

    def no_tasks(namespace: str) -> NoReturn:
        pytest.fail("a test of stores asked for tasks")

    yield LocalServices("default", "", backend.metadata, backend.exchange, no_tasks)
    await backend.close()
