"""Opening an engine: what is left when that fails is nothing."""

from dataclasses import replace

import pytest

from portside.engine.engine import EngineConfig, LocalBackend
from portside.errors import FailedPrecondition, PortsideError


@pytest.fixture
def config(tmp_path):
    return EngineConfig(tmp_path / "root", tmp_path / "state")


async def opens(config):
    backend = await LocalBackend.open(config)
    await backend.close()


async def test_a_plugin_that_is_required_and_not_there(config):
    with pytest.raises(FailedPrecondition, match="no-such"):
        await LocalBackend.open(replace(config, required_plugins=("no-such",)))
    await opens(config)


async def test_a_supervisor_that_does_not_start(config):
    obstacle = config.state / "events.sock"
    obstacle.mkdir(parents=True)
    with pytest.raises((PortsideError, OSError)):
        await LocalBackend.open(config)
    obstacle.rmdir()
    await opens(config)
