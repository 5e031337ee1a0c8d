"""Contracts: what every implementation of an interface of core/ must do, as classes to inherit from."""

import pytest

pytest.register_assert_rewrite(
    *(f"tests.contracts.{name}" for name in ("backend", "content", "events", "records", "snapshotter"))
)
