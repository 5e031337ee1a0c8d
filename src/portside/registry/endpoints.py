"""Which servers to ask for a registry's names: mirrors and the registry itself, in order, with how to speak to each.

Sources, strongest first: ``hosts.toml`` in a directory per host (containerd's format, ``docs/hosts.md`` there),
Docker's ``*.crt``/``*.cert``/``*.key`` in the same place, ``RegistryConfig``. Files are read anew for each resolve, so
that a change needs no restart. What does not belong here: any traffic.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from portside.errors import InvalidArgument
from portside.version import __version__

PULL, RESOLVE, PUSH = "pull", "resolve", "push"
_ALL = frozenset({PULL, RESOLVE, PUSH})
_KNOWN = _ALL | {"referrers"}
_DOCKER_HUB = "registry-1.docker.io"
DIAL_TIMEOUT = 30.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_HOSTS_FILE = 1 << 20

Credentials = tuple[str, str]
"""User and secret. The user ``<token>`` says that the secret is an identity token (OAuth2 refresh token)."""
CredentialsCallback = Callable[[str], Credentials | Awaitable[Credentials | None] | None]


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """How to speak to registries.

    ``plain_http`` None means HTTP for loopback hosts and HTTPS for all others. ``credentials`` is asked with the host
    as it stands in references (``docker.io``) or, for a mirror, with the mirror's; it is called in a worker thread and
    may be a coroutine function, which then runs on the loop of the caller. Seconds throughout.
    """

    plain_http: bool | None = None
    skip_verify: bool = False
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    credentials: CredentialsCallback | None = None
    hosts_dir: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = f"portside/{__version__}"
    read_timeout: float = 60.0
    connections: int = 4
    """For one large blob at most; 1 never asks for ranges."""
    fast_enough: float = 60e6
    """Bytes per second of one connection from which on no further ones are opened."""
    retry_delays: tuple[float, ...] = (0.2, 0.8, 2.4)
    trace: Callable[[str], None] | None = None
    """Told requests and answers as text (``trace``), in a worker thread; must not block."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: ``url`` is its ``…/v2``, without a slash at the end; ``host`` is what credentials are known by."""

    url: str
    host: str
    namespace: str = ""
    """The registry's own name, told to a mirror as ``?ns=``; empty for the registry itself."""
    capabilities: frozenset[str] = _ALL
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float = DIAL_TIMEOUT

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what must be equal for credentials to be sent."""
        return origin_of(self.url)


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of ``url``; InvalidArgument for what is not http or https."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"{parts.scheme[:20]}://{(parts.hostname or '')[:100]}: not the address of a registry")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine by name or number."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def endpoints_for(host: str, config: RegistryConfig, capability: str) -> list[Endpoint]:
    """The servers to try for names of ``host``, best first; those that may do ``capability``."""
    found = _from_directory(host, config) if config.hosts_dir else None
    if found is None:
        found = [_server(host, config)]
    return [endpoint for endpoint in found if capability in endpoint.capabilities]


def _server(host: str, config: RegistryConfig) -> Endpoint:
    plain = is_loopback(host) if config.plain_http is None else config.plain_http
    address = _DOCKER_HUB if host == "docker.io" else host
    return Endpoint(
        f"{'http' if plain else 'https'}://{address}/v2", host, ca=config.ca, client=config.client,
        skip_verify=config.skip_verify, headers=tuple(config.headers.items()),
    )  # fmt: skip


def _from_directory(host: str, config: RegistryConfig) -> list[Endpoint] | None:
    assert config.hosts_dir is not None
    name, _, port = host.rpartition(":")
    names = [f"{name}_{port}_"] if name and port.isdecimal() else []
    for directory in (Path(config.hosts_dir) / each for each in (*names, host, "_default")):
        file = directory / "hosts.toml"
        if file.is_file():
            return parse_hosts(_read(file), host, config, directory)
        if directory.is_dir():
            return [_with_docker_files(_server(host, config), directory)]
    return None


def _read(file: Path) -> str:
    with open(file, "rb") as stream:
        data = stream.read(MAX_HOSTS_FILE + 1)
    try:
        if len(data) > MAX_HOSTS_FILE:
            raise ValueError("too large")
        return data.decode()
    except ValueError as error:
        raise InvalidArgument(f"{file}: {error}") from error


def _with_docker_files(endpoint: Endpoint, directory: Path) -> Endpoint:
    """Docker's layout: ``*.crt`` are authorities, ``NAME.cert`` with ``NAME.key`` is ours."""
    authorities = tuple(str(path) for path in sorted(directory.glob("*.crt")))
    pairs = tuple((str(path), str(path.with_suffix(".key"))) for path in sorted(directory.glob("*.cert")))
    return Endpoint(
        endpoint.url, endpoint.host, ca=(*endpoint.ca, *authorities), client=(*endpoint.client, *pairs),
        skip_verify=endpoint.skip_verify, headers=endpoint.headers,
    )  # fmt: skip


def parse_hosts(text: str, host: str, config: RegistryConfig, directory: Path) -> list[Endpoint]:
    """A ``hosts.toml`` as endpoints in the file's order, the server last. InvalidArgument names file and key."""
    where = str(directory / "hosts.toml")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{where}: {error}") from error
    hosts = document.pop("host", {})
    if not isinstance(hosts, dict):
        raise InvalidArgument(f"{where}: host must be a table for each server")
    endpoints = []
    for url, table in hosts.items():
        if not isinstance(table, dict):
            raise InvalidArgument(f"{where}: host {url!r} must be a table")
        endpoints.append(_entry(url, table, host, config, directory))
    default = _server(host, config)
    server = document.pop("server", "") or default.url.removesuffix("/v2")
    if not isinstance(server, str):
        raise InvalidArgument(f"{where}: server must be a string")
    endpoints.append(_entry(server, document, host, config, directory))
    return endpoints


def _entry(url: str, table: Mapping[str, Any], host: str, config: RegistryConfig, directory: Path) -> Endpoint:
    where = f"{directory / 'hosts.toml'}: {url[:100]}"
    if "://" not in url:
        url = ("http://" if is_loopback(url.partition("/")[0]) else "https://") + url
    try:
        origin_of(url)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from error
    address = urlsplit(url).netloc.rpartition("@")[2]
    path = urlsplit(url).path.rstrip("/")
    if not _boolean(table, "override_path", where) and not path.endswith("/v2"):
        path += "/v2"
    own = address == host or (host == "docker.io" and address == _DOCKER_HUB)
    capabilities = frozenset(_strings(table.get("capabilities", sorted(_ALL)), "capabilities", where))
    if not capabilities <= _KNOWN:
        raise InvalidArgument(f"{where}: capabilities {sorted(capabilities - _KNOWN)} are not known")
    return Endpoint(
        f"{urlsplit(url).scheme}://{address}{path}",
        host if own else address,
        namespace="" if own else host,
        capabilities=capabilities,
        ca=(*config.ca, *(str(directory / name) for name in _strings(table.get("ca", []), "ca", where))),
        client=(*config.client, *_clients(table.get("client", []), directory, where)),
        skip_verify=config.skip_verify or _boolean(table, "skip_verify", where),
        headers=(*(config.headers.items() if own else ()), *_headers(table.get("header", {}), where)),
        dial_timeout=_duration(table.get("dial_timeout"), where),
    )


def _boolean(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{where}: {key} must be true or false")
    return value


def _strings(value: Any, key: str, where: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise InvalidArgument(f"{where}: {key} must be a string or a list of strings")
    return values


def _clients(value: Any, directory: Path, where: str) -> list[tuple[str, str]]:
    """``client``: a file with both, a list of such, or a list of pairs (certificate, key)."""
    pairs = []
    for each in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        names = [each] if isinstance(each, str) else each
        if not isinstance(names, list) or not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names):
            raise InvalidArgument(f"{where}: client must be files or pairs of files")
        paths = [str(directory / name) for name in names if name]
        if paths:
            pairs.append((paths[0], paths[-1]))
    return pairs


def _headers(value: Any, where: str) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: header must be a table")
    headers = []
    for name, texts in value.items():
        for text in _strings(texts, f"header {name!r}", where):
            if any(ord(character) < 32 for character in name + text):
                raise InvalidArgument(f"{where}: header {name!r} has a control character")
            headers.append((name, text))
    return headers


def _duration(value: Any, where: str) -> float:
    """Go's form (``1m30s``), or seconds as a number."""
    if value is None:
        return DIAL_TIMEOUT
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    if isinstance(value, str) and (parts := _DURATION.findall(value)) and "".join(map("".join, parts)) == value:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise InvalidArgument(f"{where}: dial_timeout {value!r} is not a duration")
