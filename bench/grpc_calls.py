"""Version calls by ``h2load`` on a unix socket: our gRPC server against Debian's containerd, in one run.

    python -m bench.grpc_calls [--socket SOCKET] [--uvloop] [--rounds N]

Without ``--socket`` a server with nothing but Version is measured (``grpc_version_server.py``), which is the core by
itself; with it, whatever serves there, such as the daemon. Three shapes: one client that waits for each answer, 16
clients, and 16 calls at a time on one connection. The two servers take turns; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import HEAD, Row
from bench.stacks import _process, debian

URL = "http://localhost/containerd.services.version.v1.Version/Version"


@dataclass(frozen=True)
class Shape:
    """How h2load calls: connections, calls at a time on each, calls in all."""

    name: str
    clients: int
    streams: int
    calls: int


SHAPES = [Shape("1 client", 1, 1, 5000), Shape("16 clients", 16, 1, 20000), Shape("16 streams", 1, 16, 30000)]


def load(socket: Path, shape: Shape, directory: Path) -> tuple[float, float]:
    """Median latency of a single client in microseconds, and calls per second; every call must succeed."""
    body, log = directory / "body", directory / "log"
    body.write_bytes(bytes(5))  # an empty message
    log.unlink(missing_ok=True)
    command = ["h2load", "-n", str(shape.calls), "-c", str(shape.clients), "-m", str(shape.streams), "-t", "1"]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    # A line for each call costs more than the call where many are under way: latency is that of one client.
    command += [f"--log-file={log}"] * (shape.clients * shape.streams == 1)
    command += ["-B", f"unix:{socket}", URL]
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
    with _process(command + ["--uvloop"] * uvloop, directory, sock):
        yield sock


def measure(ours: Path, theirs: Path, rounds: int, directory: Path) -> list[Row]:
    """A row for each shape: latency where one waits, calls per second where many call."""
    rows = []
    for shape, budget in zip(SHAPES, (1.0, 1.2, 1.5), strict=True):
        results: list[list[tuple[float, float]]] = [[], []]
        for _ in range(rounds):
            for column, sock in zip(results, (ours, theirs), strict=True):
                column.append(load(sock, shape, directory))
        more = shape.clients * shape.streams > 1
        mine, peers = (statistics.median(each[more] for each in column) for column in results)
        scale, unit = (1000, "k/s") if more else (1, "µs")
        name = f"Version, {shape.name}"
        rows.append(Row(name, "containerd 1.6", mine / scale, peers / scale, unit, budget, more))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, help="measure what serves on this socket")
    parser.add_argument("--uvloop", action="store_true", help="run our own server on uvloop")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpc-calls-")))
        peer = stack.enter_context(debian(directory / "containerd"))
        ours = arguments.socket or stack.enter_context(version_server(directory / "ours", arguments.uvloop))
        print(HEAD)
        for row in measure(ours, peer.socket, arguments.rounds, directory):
            print(row.markdown())


if __name__ == "__main__":
    main()
