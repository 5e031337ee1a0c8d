from pathlib import Path

import pytest

from portside.errors import InvalidArgument
from portside.registry.endpoints import PULL, PUSH, RESOLVE, RegistryConfig, endpoints_for, parse_hosts


def parse(text, host="example.org", **config):
    return parse_hosts(text, host, RegistryConfig(**config), Path("/etc/certs.d") / host)


def urls(endpoints):
    return [endpoint.url for endpoint in endpoints]


@pytest.mark.parametrize(
    ("host", "plain", "url"),
    [
        ("docker.io", None, "https://registry-1.docker.io/v2"), ("example.org:5000", None, "https://example.org:5000/v2"),
        ("localhost:5000", None, "http://localhost:5000/v2"), ("127.0.0.1:5000", False, "https://127.0.0.1:5000/v2"),
        ("example.org", True, "http://example.org/v2"), ("[::1]:5000", None, "http://[::1]:5000/v2"),
    ],
)  # fmt: skip
def test_without_a_directory(host, plain, url):
    (endpoint,) = endpoints_for(host, RegistryConfig(plain_http=plain), PULL)
    assert (endpoint.url, endpoint.host, endpoint.namespace) == (url, host, "")


def test_order_capabilities_and_names():
    endpoints = parse("""
        server = "https://registry.example.org"
        [host."https://mirror-b.local:5000"]
        capabilities = ["pull", "resolve"]
        [host."http://mirror-a.local/prefix"]
        capabilities = ["pull"]
        override_path = true
        [host."mirror-c.local"]
        skip_verify = true
        dial_timeout = "1m30s"
    """)  # fmt: skip
    assert urls(endpoints) == [
        "https://mirror-b.local:5000/v2", "http://mirror-a.local/prefix", "https://mirror-c.local/v2",
        "https://registry.example.org/v2",
    ]  # fmt: skip
    assert [endpoint.namespace for endpoint in endpoints] == ["example.org"] * 4
    assert endpoints[1].capabilities == {PULL} and endpoints[3].capabilities == {PULL, RESOLVE, PUSH}
    assert endpoints[2].skip_verify and endpoints[2].dial_timeout == 90 and not endpoints[0].skip_verify


def test_the_server_itself_is_asked_without_a_name():
    assert [each.namespace for each in parse("", "docker.io")] == [""]
    assert urls(parse('server = "https://registry-1.docker.io"', "docker.io")) == ["https://registry-1.docker.io/v2"]
    (endpoint,) = parse('server = "https://example.org/v2/"')
    assert (endpoint.url, endpoint.host) == ("https://example.org/v2", "example.org")


def test_files_are_relative_to_the_directory():
    (endpoint, _) = parse("""
        [host."https://m"]
        ca = ["a.pem", "/abs/b.pem"]
        client = [["c.cert", "c.key"], "both.pem", ["d.cert", ""]]
    """)  # fmt: skip
    base = "/etc/certs.d/example.org"
    assert endpoint.ca == (f"{base}/a.pem", "/abs/b.pem")
    assert endpoint.client == (
        (f"{base}/c.cert", f"{base}/c.key"), (f"{base}/both.pem",) * 2, (f"{base}/d.cert",) * 2,
    )  # fmt: skip


def test_headers_of_a_mirror_are_its_own():
    mirror, server = parse('[host."https://m".header]\nx-one = "1"\nx-two = ["a", "b"]\n', headers={"X-Key": "k"})
    assert mirror.headers == (("x-one", "1"), ("x-two", "a"), ("x-two", "b"))
    assert server.headers == (("X-Key", "k"),)


@pytest.mark.parametrize(
    "text",
    [
        "no toml", "host = 5", '[host]\n"https://m" = 5', "server = 5", '[host."ftp://m"]', '[host."https://"]',
        '[host."https://m"]\ncapabilities = ["all"]', '[host."https://m"]\ncapabilities = 5',
        '[host."https://m"]\nskip_verify = "yes"', '[host."https://m"]\nca = 5', '[host."https://m"]\nclient = 5',
        '[host."https://m"]\nclient = [["a", "b", "c"]]', '[host."https://m"]\nheader = 5',
        '[host."https://m".header]\nx = 5', '[host."https://m".header]\nx = "a\\r\\nb"',
        '[host."https://m"]\ndial_timeout = "soon"', '[host."https://m"]\ndial_timeout = -1',
    ],
)  # fmt: skip
def test_what_is_refused_names_the_file(text):
    with pytest.raises(InvalidArgument, match=r"/etc/certs\.d/example\.org/hosts\.toml"):
        parse(text)


@pytest.mark.parametrize("directory", ["example.org_5000_", "example.org:5000", "_default"])
def test_places_of_the_file(tmp_path, directory):
    (tmp_path / directory).mkdir()
    (tmp_path / directory / "hosts.toml").write_text('[host."https://mirror"]\n')
    config = RegistryConfig(hosts_dir=str(tmp_path))
    found = endpoints_for("example.org:5000", config, PULL)
    assert urls(found) == ["https://mirror/v2", "https://example.org:5000/v2"]


def test_a_change_counts_at_once_and_a_missing_directory_is_no_error(tmp_path):
    config = RegistryConfig(hosts_dir=str(tmp_path / "missing"))
    assert urls(endpoints_for("example.org", config, PULL)) == ["https://example.org/v2"]
    (tmp_path / "missing" / "example.org").mkdir(parents=True)
    file = tmp_path / "missing" / "example.org" / "hosts.toml"
    file.write_text('[host."https://one"]\ncapabilities = ["pull"]\n')
    assert len(endpoints_for("example.org", config, PULL)) == 2
    assert urls(endpoints_for("example.org", config, PUSH)) == ["https://example.org/v2"]
    file.write_text("")
    assert len(endpoints_for("example.org", config, PULL)) == 1


def test_a_file_that_is_too_large_or_no_text(tmp_path):
    (tmp_path / "example.org").mkdir()
    config = RegistryConfig(hosts_dir=str(tmp_path))
    for data in (b"#" * (2 << 20), b"\xff"):
        (tmp_path / "example.org" / "hosts.toml").write_bytes(data)
        with pytest.raises(InvalidArgument, match=r"hosts\.toml"):
            endpoints_for("example.org", config, PULL)


def test_dockers_layout(tmp_path):
    directory = tmp_path / "example.org"
    directory.mkdir()
    for name in ("b.crt", "a.crt", "client.cert", "client.key"):
        (directory / name).touch()
    (endpoint,) = endpoints_for("example.org", RegistryConfig(hosts_dir=str(tmp_path)), PULL)
    assert endpoint.ca == (str(directory / "a.crt"), str(directory / "b.crt"))
    assert endpoint.client == ((str(directory / "client.cert"), str(directory / "client.key")),)
