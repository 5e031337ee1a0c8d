"""Our server under ``@grpc/grpc-js``, the client of the Node world, in gRPC's interop cases.

The package is fetched once by npm, into the user's cache and not into the checkout.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import SLOWNESS
from tests.wire.grpc.servers import Probe, our_server

VERSION = "1.14.7"
SCRIPT = Path(__file__).with_name("grpc_js_client.js")

EXPECTED: dict[str, Any] = {
    "empty_unary": 0,
    "large_unary": 314159,
    "client_compressed_unary": 271828,
    "client_streaming": "74922",
    "server_streaming": [31415, 9, 2653, 58979],
    "ping_pong": [31415, 9, 2653, 58979],
    "empty_stream": [],
    "cancel_after_begin": 1,
    "cancel_after_first_response": 1,
    "timeout_on_sleeping_server": 4,
    "custom_metadata": ["ab00ff"],
    "status_code_and_message": [2, "test status message"],
    "special_status_message": [2, True],
    "status_after_messages": [[1, 2], 9, "no further"],
    "unimplemented_method": 12,
    "unimplemented_service": 12,
    "many_at_once": True,
    "large_stream": 32 << 20,
    "message_too_large": 8,
}


@pytest.fixture(scope="module")
def modules() -> Path:
    """Where node finds the package."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portside" / f"grpc-js-{VERSION}"
    if not (cache / "node_modules/@grpc/grpc-js/package.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(cache)]
        done = subprocess.run([*command, f"@grpc/grpc-js@{VERSION}"], capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"npm cannot fetch @grpc/grpc-js: {done.stderr.strip()[-300:]}")
    return cache / "node_modules"


@pytest.fixture(scope="module")
def results(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each case gave, from one run of the client."""
    path = str(tmp_path_factory.mktemp("s") / "s")
    up, down = threading.Event(), threading.Event()

    async def serve() -> None:
        async with our_server(path, Probe()):
            up.set()
            await asyncio.to_thread(down.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert up.wait(20)
        done = subprocess.run(
            ["node", str(SCRIPT), path],
            capture_output=True,
            text=True,
            timeout=60 * SLOWNESS,
            env=os.environ | {"NODE_PATH": str(modules)},
        )
        assert done.returncode == 0, done.stderr
        yield dict(json.loads(line) for line in done.stdout.splitlines())
    finally:
        down.set()
        thread.join()


@pytest.mark.parametrize("name", EXPECTED)
def test_case(results: dict[str, Any], name: str) -> None:
    assert results[name] == EXPECTED[name]


def test_all_cases_are_looked_at(results: dict[str, Any]) -> None:
    assert results.keys() == EXPECTED.keys()
