"""Tests of this directory change the machine they run on: only the one that script/vm boots is theirs."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PORTSIDE_VM"):
        return
    for item in items:
        if "/tests/vm/" in str(item.path):
            item.add_marker(pytest.mark.skip(reason="runs inside script/vm only"))
