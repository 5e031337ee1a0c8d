"""Spans of calls, sent by a real daemon to a receiver of OTLP over HTTP on loopback."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from portside.daemon import tracing
from portside.wire.pb.containerd.services.containers.v1 import containers_pb2
from portside.wire.pb.containerd.services.content.v1 import content_pb2
from tests.support.peers import Daemon, need_root, wait_for

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
pytestmark = pytest.mark.root

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """What was sent: paths of requests, resources, spans."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.resources: list[dict[str, str]] = []
        self.spans: list[Any] = []

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(body)
        self.paths.append(path)
        self.headers.append(headers)
        for group in request.resource_spans:
            self.resources.append({entry.key: entry.value.string_value for entry in group.resource.attributes})
            for scope in group.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def receiver() -> Iterator[tuple[Receiver, str]]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.take(self.path, dict(self.headers), body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {
        entry.key: entry.value.string_value or entry.value.int_value or entry.value.bool_value
        for entry in span.attributes
    }


def call(daemon: Daemon, path: str, request: Any, *metadata: tuple[str, str], streamed: bool = False) -> str:
    """Make a call; its status code."""
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        serialize = type(request).SerializeToString
        try:
            if streamed:
                list(channel.unary_stream(path, serialize)(request, timeout=20, metadata=metadata))
            else:
                channel.unary_unary(path, serialize)(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@contextmanager
def traced(directory: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Iterator[Daemon]:
    need_root()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    daemon = Daemon(directory)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


GET = "/containerd.services.containers.v1.Containers/Get"
LIST = "/containerd.services.content.v1.Content/List"


def test_calls_are_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (found, endpoint):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with traced(tmp_path, monkeypatch, **environment) as daemon:
            namespace = ("containerd-namespace", "traced")
            parent = ("traceparent", f"00-{TRACE}-{PARENT}-01")
            assert call(daemon, GET, containers_pb2.GetContainerRequest(id="x"), namespace, parent) == "NOT_FOUND"
            assert call(daemon, LIST, content_pb2.ListContentRequest(), namespace, streamed=True) == "OK"
            assert call(daemon, GET, containers_pb2.GetContainerRequest(id="y")) == "FAILED_PRECONDITION"
            wait_for(lambda: len(found.named(GET[1:])) == 2 and bool(found.named(LIST[1:])), "the spans")
            child, orphan = sorted(found.named(GET[1:]), key=lambda span: not span.parent_span_id)
            assert (child.trace_id.hex(), child.parent_span_id.hex()) == (TRACE, PARENT)
            assert child.kind == 2  # SPAN_KIND_SERVER
            assert attributes(child) == {
                "rpc.system": "grpc",
                "rpc.service": "containerd.services.containers.v1.Containers",
                "rpc.method": "Get",
                "rpc.grpc.status_code": 5,
                "containerd.namespace": "traced",
            }
            assert child.status.code != 2  # a client's mistake is no failure of the server
            assert orphan.trace_id != child.trace_id and not orphan.parent_span_id
            assert 0 < child.start_time_unix_nano <= child.end_time_unix_nano
            assert set(found.paths) == {"/v1/traces"}
            assert found.headers[0]["x-key"] == "secret"
            assert found.resources[0]["service.name"] == "portside"
            assert found.resources[0]["deployment.environment"] == "test"
            count = len(found.spans)
            assert call(daemon, GET, containers_pb2.GetContainerRequest(id="z")) == "FAILED_PRECONDITION"
        assert len(found.spans) > count  # what was not sent yet is sent at the end


@pytest.mark.parametrize(
    ("environment", "name", "spans"),
    [
        ({"OTEL_SERVICE_NAME": "node-7"}, "node-7", 1),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "", 0),
        ({"OTEL_SDK_DISABLED": "true"}, "", 0),
        ({"OTEL_TRACES_EXPORTER": "none"}, "", 0),
    ],
)
def test_the_environment_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str, spans: int
) -> None:
    with receiver() as (found, endpoint):
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment}
        with traced(tmp_path, monkeypatch, **environment) as daemon:
            call(daemon, GET, containers_pb2.GetContainerRequest(id="x"))
        assert len(found.named(GET[1:])) == spans
        assert {resource["service.name"] for resource in found.resources} == ({name} if name else set())


def test_a_receiver_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(tmp_path, monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as daemon:
        for _ in range(20):
            assert call(daemon, GET, containers_pb2.GetContainerRequest(id="x")) == "FAILED_PRECONDITION"


def test_an_odd_protocol_is_no_reason_to_stay_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke-signals"}
    with traced(tmp_path, monkeypatch, **odd) as daemon:
        assert call(daemon, GET, containers_pb2.GetContainerRequest(id="x")) == "FAILED_PRECONDITION"
        assert "smoke-signals" in daemon.log.read_text()


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_when_it_is_wanted(environment: dict[str, str], asked: bool) -> None:
    assert tracing.wanted(environment) is asked


def test_nothing_is_imported_unless_it_is_wanted() -> None:
    program = (
        "import sys; from portside.daemon.tracing import Tracing; import portside.daemon.host\n"
        "assert Tracing.from_environment() is None\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'requests'))])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from portside.errors import FailedPrecondition

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name in [name for name in sys.modules if name.startswith("opentelemetry.sdk")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(FailedPrecondition, match=r"portside\[otel\]"):
        tracing.Tracing.from_environment()
