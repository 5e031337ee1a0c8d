"""Version and Containers.Get by ``h2load`` on a unix socket: our daemon against Debian's containerd, in one run.

    python -m bench.grpc_calls [--core] [--uvloop] [--rounds N]

With ``--core`` our side is a server with nothing but Version (``grpc_version_server.py``), and only that is asked.
Three shapes: one client that waits for each answer, 16 clients, and 16 calls at a time on one connection. The container
has a specification of 10 kB. The two servers take turns; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import HEAD, Row
from bench.stacks import debian, serving
from bench.stacks import ours as daemon
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.remote.backend import RemoteBackend
from portside.wire.pb.containerd.services.containers.v1 import containers_pb2

HOST = "http://localhost/"
CONTAINER = Container("measured", "io.containerd.runc.v2", AnyMessage(SPEC, b'{"padding": "' + b"x" * 10_000 + b'"}'))


@dataclass(frozen=True)
class Call:
    """What is asked: a method and its message."""

    name: str
    path: str
    message: bytes = b""


VERSION = Call("Version", "containerd.services.version.v1.Version/Version")
GET = Call(
    "Containers.Get, 10 kB",
    "containerd.services.containers.v1.Containers/Get",
    containers_pb2.GetContainerRequest(id=CONTAINER.id).SerializeToString(),
)


@dataclass(frozen=True)
class Shape:
    """How h2load calls: connections, calls at a time on each, calls in all."""

    name: str
    clients: int
    streams: int
    calls: int


SHAPES = [Shape("1 client", 1, 1, 5000), Shape("16 clients", 16, 1, 20000), Shape("16 streams", 1, 16, 30000)]


def load(socket: Path, call: Call, shape: Shape, directory: Path) -> tuple[float, float]:
    """Median latency of a single client in microseconds, and calls per second; every call must succeed."""
    body, log = directory / "body", directory / "log"
    body.write_bytes(b"\0" + len(call.message).to_bytes(4, "big") + call.message)
    log.unlink(missing_ok=True)
    command = ["h2load", "-n", str(shape.calls), "-c", str(shape.clients), "-m", str(shape.streams), "-t", "1"]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += ["-H", "containerd-namespace: default"]
    # A line for each call costs more than the call where many are under way: latency is that of one client.
    command += [f"--log-file={log}"] * (shape.clients * shape.streams == 1)
    command += ["-B", f"unix:{socket}", HOST + call.path]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if f"{shape.calls} succeeded" not in output:
        raise RuntimeError(f"h2load on {socket}: not every call succeeded:\n{output}")
    rate = next(line for line in output.splitlines() if line.startswith("finished in")).split()[3]
    lines = log.read_text().splitlines() if log.exists() else []
    return statistics.median([int(line.split("\t")[2]) for line in lines] or [0]), float(rate)


@contextlib.contextmanager
def version_server(directory: Path, uvloop: bool) -> Iterator[Path]:
    """Our core with one method."""
    sock = directory / "s"
    command = [sys.executable, str(Path(__file__).with_name("grpc_version_server.py")), str(sock)]
    with serving(command + ["--uvloop"] * uvloop, directory, sock):
        yield sock


def measure(ours: Path, theirs: Path, calls: Sequence[Call], rounds: int, directory: Path) -> Iterator[Row]:
    """A row for each call and shape: latency where one waits, calls per second where many call."""
    for call, (shape, budget) in itertools.product(calls, zip(SHAPES, (1.0, 1.2, 1.5), strict=True)):
        results: list[list[tuple[float, float]]] = [[], []]
        for _ in range(rounds):
            for column, sock in zip(results, (ours, theirs), strict=True):
                column.append(load(sock, call, shape, directory))
        more = shape.clients * shape.streams > 1
        mine, peers = (statistics.median(each[more] for each in column) for column in results)
        scale, unit = (1000, "k/s") if more else (1, "µs")
        yield Row(f"{call.name}, {shape.name}", "containerd 1.6", mine / scale, peers / scale, unit, budget, more)


async def record(socket: Path) -> None:
    """Make the record that is asked for."""
    async with await RemoteBackend.connect(str(socket)) as backend:
        await backend.bind("default").containers.create(CONTAINER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="store_true", help="our server with nothing but Version")
    parser.add_argument("--uvloop", action="store_true", help="run that server on uvloop")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpc-calls-")))
        peer = stack.enter_context(debian(directory / "containerd")).reach
        if arguments.core:
            ours, calls = stack.enter_context(version_server(directory / "ours", arguments.uvloop)), [VERSION]
        else:
            ours, calls = stack.enter_context(daemon(directory / "ours")).reach, [VERSION, GET]
            for sock in (ours, peer):
                asyncio.run(record(sock))
        print(HEAD)
        for row in measure(ours, peer, calls, arguments.rounds, directory):
            print(row.markdown(), flush=True)


if __name__ == "__main__":
    main()
