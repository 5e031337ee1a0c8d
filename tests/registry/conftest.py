"""A real registry (Debian's docker-registry) on loopback, and a server that says whatever a test wants."""

import http.server
import shutil
import socket
import subprocess
import threading
import time

import pytest

HTPASSWD = "user:$2b$04$L0KQTA0J9OPlq.VMH0LCWucSXx4BI.i0cDatE74/4w8Ctds7JKNFS\n"
"""``user`` with the password ``secret``."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_registry(directory, extra=""):
    """Start one; its ``host:port`` and process."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: x}}\n"
        "log: {level: error, accesslog: {disabled: true}}\n" + extra
    )
    process = subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return f"127.0.0.1:{port}", process
        except OSError:
            assert process.poll() is None, "docker-registry ended"
            assert time.monotonic() < deadline, "docker-registry does not listen"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def real_registry(tmp_path_factory):
    """``host:port`` of an open registry."""
    host, process = run_registry(tmp_path_factory.mktemp("registry"))
    yield host
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def closed_registry(tmp_path_factory):
    """``host:port`` of one that wants ``user`` and ``secret``."""
    directory = tmp_path_factory.mktemp("closed")
    (directory / "htpasswd").write_text(HTPASSWD)
    host, process = run_registry(
        directory, f"auth: {{htpasswd: {{realm: portside-test, path: {directory}/htpasswd}}}}\n"
    )
    yield host
    process.terminate()
    process.wait()


class Server:
    """An HTTP server whose answers are functions: ``routes[path]`` is called with the handler. Keeps what was asked."""

    def __init__(self, tls=None):
        self.routes = {}
        self.requests = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                path = self.path.partition("?")[0]
                server.requests.append((self.command, self.path, dict(self.headers.items())))
                length = int(self.headers.get("Content-Length") or 0)
                self.body = self.rfile.read(length) if length else b""
                route = server.routes.get((self.command, path)) or server.routes.get(path)
                if route is None:
                    self.reply(404)
                else:
                    route(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer

            def reply(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if "Content_Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

            def hang_up(self):
                self.close_connection = True

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """Clients that go away are what these tests are about."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.host = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def authorizations(self):
        return [headers["Authorization"] for _, _, headers in self.requests if "Authorization" in headers]


@pytest.fixture
def make_server():
    servers = []

    def make(tls=None):
        servers.append(Server(tls))
        return servers[-1]

    yield make
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def server(make_server):
    return make_server()
