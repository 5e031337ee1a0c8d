"""Metrics of a real daemon with real containers, read by Prometheus' own parsers, next to Debian's containerd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support import leftovers
from tests.support.containerd import containerd
from tests.support.peers import Daemon, free_port, need_root, run, stop, wait_for

pytestmark = pytest.mark.root

NAMESPACE = f"metrics-{os.getpid()}"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def fetch(port: int, accept: str = "", path: str = "/v1/metrics") -> tuple[str, str]:
    """Content type and text."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def families(port: int) -> dict[str, Metric]:
    return {family.name: family for family in parse_text(fetch(port)[1])}


def value(port: int, family: str, sample: str, **labels: str) -> float:
    """Of the one sample that has these labels."""
    (found,) = [
        entry.value
        for entry in families(port)[family].samples
        if entry.name == sample and labels.items() <= entry.labels.items()
    ]
    return found


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, busybox: str, port: int) -> Iterator[Daemon]:
    need_root()
    directory = tmp_path_factory.mktemp("d")
    config = (
        f'version = 2\n[metrics]\naddress = "127.0.0.1:{port}"\ngrpc_histogram = true\n'
        "[plugins.'io.containerd.gc.v1.scheduler']\nstartup_delay = '1ms'\n"
    )
    daemon = Daemon(directory, config)
    daemon.start()
    daemon.portside("-n", NAMESPACE, "pull", "-q", busybox)
    yield daemon
    daemon.stop()
    leftovers.remove_empty_cgroups(NAMESPACE)


def test_a_container_comes_and_goes(watched: Daemon, busybox: str, port: int) -> None:
    id = watched.portside("-n", NAMESPACE, "run", "-d", "-m", "64m", busybox, "sleep", "1000").stdout.strip()
    labels = {"container_id": id, "namespace": NAMESPACE, "runtime": "io.containerd.runc.v2"}
    limit, cpu = "container_memory_usage_limit_bytes", "container_cpu_usage_usec_microseconds"
    if "container_memory_usage_usage_bytes" in families(port):  # cgroup v1
        cpu = "container_cpu_total_nanoseconds"
    assert value(port, limit, limit, **labels) == 64 << 20
    assert value(port, cpu, cpu, **labels) > 0
    assert value(port, "container_pids_current", "container_pids_current", **labels) == 1
    watched.portside("-n", NAMESPACE, "rm", "-f", id)
    assert not [name for name in families(port) if name.startswith("container_")]


def test_calls_are_counted(watched: Daemon, port: int) -> None:
    version = {"grpc_service": "containerd.services.version.v1.Version", "grpc_method": "Version", "grpc_type": "unary"}
    get = {"grpc_service": "containerd.services.containers.v1.Containers", "grpc_method": "Get"}
    before = value(port, "grpc_server_started", "grpc_server_started_total", **version)
    missing = value(port, "grpc_server_handled", "grpc_server_handled_total", **get, grpc_code="NotFound")
    for _ in range(3):
        watched.ctr("version")
    watched.ctr("-n", NAMESPACE, "containers", "info", "no-such", check=False)
    assert value(port, "grpc_server_started", "grpc_server_started_total", **version) == before + 3
    assert value(port, "grpc_server_handled", "grpc_server_handled_total", **version, grpc_code="OK") == before + 3
    assert value(port, "grpc_server_msg_sent", "grpc_server_msg_sent_total", **version) == before + 3
    assert value(port, "grpc_server_handled", "grpc_server_handled_total", **get, grpc_code="NotFound") == missing + 1
    seconds = "grpc_server_handling_seconds"
    assert value(port, seconds, f"{seconds}_count", **version) == before + 3


def test_streams_are_counted(watched: Daemon, port: int) -> None:
    write = {"grpc_service": "containerd.services.content.v1.Content", "grpc_method": "Write"}
    received = value(port, "grpc_server_msg_received", "grpc_server_msg_received_total", **write)
    watched.ctr("-n", NAMESPACE, "content", "ingest", "some-ref", input="x" * 3_000_000)
    assert value(port, "grpc_server_msg_received", "grpc_server_msg_received_total", **write) >= received + 2
    subscribe = {"grpc_service": "containerd.services.events.v1.Events", "grpc_method": "Subscribe"}
    command = ["ctr", "-a", str(watched.socket), "events"]
    listening = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: value(port, "grpc_server_started", "grpc_server_started_total", **subscribe) == 1, "a subscriber")
    stop(listening)
    ended = ("grpc_server_handled", "grpc_server_handled_total")
    wait_for(lambda: value(port, *ended, **subscribe, grpc_code="Canceled") == 1, "its end to be counted")


def test_collections_build_and_process(watched: Daemon, port: int) -> None:
    def collected() -> bool:
        return value(port, "containerd_gc_collections", "containerd_gc_collections_total", status="success") > 0

    wait_for(collected, "a collection")
    assert value(port, "containerd_gc_gc_seconds", "containerd_gc_gc_seconds_count") > 0
    assert value(port, "containerd_build_info", "containerd_build_info_total") == 1
    assert watched.process is not None
    memory = value(port, "process_resident_memory_bytes", "process_resident_memory_bytes")
    status = Path(f"/proc/{watched.process.pid}/status").read_text()
    assert memory == pytest.approx(int(status.partition("VmRSS:")[2].split()[0]) << 10, rel=0.2)


def test_both_formats_say_the_same(watched: Daemon, busybox: str, port: int) -> None:
    id = watched.portside("-n", NAMESPACE, "run", "-d", busybox, "sleep", "1000").stdout.strip()
    kind, text = fetch(port, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    strict = {family.name: family.type for family in parse_openmetrics(text)}
    kind, text = fetch(port)
    assert kind.startswith("text/plain; version=0.0.4")
    plain = {family.name: family.type for family in parse_text(text)}
    assert strict == plain
    watched.portside("-n", NAMESPACE, "rm", "-f", id)


def test_there_is_nothing_else(watched: Daemon, port: int) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(port, path="/debug/vars")


def test_a_shim_that_does_not_answer_is_left_out(watched: Daemon, busybox: str, port: int) -> None:
    ids = [watched.portside("-n", NAMESPACE, "run", "-d", busybox, "sleep", "1000").stdout.strip() for _ in range(2)]
    with frozen(watched, ids[0]):
        found = {sample.labels["container_id"] for sample in families(port)["container_pids_current"].samples}
    assert found == {ids[1]}
    watched.portside("-n", NAMESPACE, "rm", "-f", *ids)


@contextmanager
def frozen(daemon: Daemon, id: str) -> Iterator[None]:
    """A container's shim stopped, with what it has started."""
    (record,) = daemon.state.glob(f"io.containerd.runtime.v2.task/{NAMESPACE}/{id}/state.json")
    pids = [json.loads(record.read_text())["shim"]["pid"]]
    os.kill(pids[0], signal.SIGSTOP)
    pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
    for pid in pids[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_names_are_containerds(watched: Daemon, busybox: str, port: int, tmp_path: Path) -> None:
    theirs = free_port()
    more = f'[metrics]\naddress = "127.0.0.1:{theirs}"\ngrpc_histogram = true\n'
    with containerd(tmp_path, more) as socket:
        ctr = ("ctr", "-a", str(socket), "-n", NAMESPACE)
        run(*ctr, "images", "pull", "--plain-http", busybox)
        run(*ctr, "run", "-d", busybox, "peer", "sleep", "1000")
        wanted = families(theirs)
        run(*ctr, "task", "rm", "-f", "peer")
        run(*ctr, "containers", "rm", "peer")
    id = watched.portside("-n", NAMESPACE, "run", "-d", busybox, "sleep", "1000").stdout.strip()
    ours = families(port)
    watched.portside("-n", NAMESPACE, "rm", "-f", id)
    prefixes = ("container_", "containerd_build", "grpc_server_", "process_")
    missing = {name for name in wanted if name.startswith(prefixes)} - ours.keys()
    assert missing == {"process_virtual_memory_max_bytes"}  # which Linux has no limit of, and Go says so with a number
    for name, family in wanted.items():
        if name.startswith(prefixes) and name in ours:
            assert ours[name].type == family.type
            if not name.startswith("container_") or "container_memory_usage_usage_bytes" in wanted:
                # Of cgroup v2 newer versions say more.
                assert ours[name].documentation == family.documentation
            keys = {frozenset(sample.labels) for sample in family.samples}
            assert {frozenset(sample.labels) for sample in ours[name].samples} >= keys, name
