"""HTTP to one endpoint, blocking, in worker threads: connections, TLS, proxies, redirects, retries, authentication.

Rules kept here, for every request: the ``Authorization`` header and the configured headers go to the endpoint's own
origin and nowhere else, redirects included; a redirect never leaves TLS; what an answer makes large is limited. Errors
are sentences without queries, headers or tokens; the caller puts reference and step before them. Not here: what is
asked for (``client``).
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from portside import errors
from portside.errors import Unavailable
from portside.registry.auth import MAX_TOKEN_ANSWER, Authorizer
from portside.registry.endpoints import Credentials, Endpoint, RegistryConfig, is_loopback, origin_of
from portside.registry.trace import answer_text, request_text

Response = urllib3.BaseHTTPResponse
MAX_REDIRECTS = 10
MAX_ERROR_BODY = 64 << 10
_BLOCK = 256 << 10
_MAX_DETAIL = 200
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRIED = (429, 500, 502, 503, 504)
_TRANSIENT = (
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.ReadTimeoutError,
    urllib3.exceptions.ConnectTimeoutError,
    ConnectionResetError,
)


@dataclass(slots=True)
class Body:
    """What is sent: bytes, or ``open`` gives something to read ``size`` bytes from, anew for each try."""

    size: int
    open: Callable[[], Any]
    media_type: str = "application/octet-stream"


class Transport:
    """The connections to one endpoint. Thread-safe; ``close`` drops idle connections."""

    def __init__(
        self, endpoint: Endpoint, config: RegistryConfig, credentials: Callable[[str], Credentials | None]
    ) -> None:
        self.endpoint = endpoint
        self._config = config
        self._authorizer = Authorizer(endpoint, credentials, self._token_request)
        self._lock = threading.Lock()
        self._pools: dict[tuple[bool, str, str], urllib3.PoolManager] = {}

    def request(
        self, method: str, path: str, *, scopes: frozenset[str] = frozenset(), query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, body: Body | None = None, retry: bool = True,
    ) -> Response:  # fmt: skip
        """Ask the endpoint for ``path`` (or an absolute URL it gave) and follow where it leads; any status is returned.

        The body of the answer is not read yet: the caller reads and closes it. Unavailable if nothing answers,
        Unauthenticated if the credentials do not suffice.
        """
        parameters = dict(query or {})
        if self.endpoint.namespace:
            parameters["ns"] = self.endpoint.namespace
        url = path if "://" in path else self.endpoint.url + path
        if parameters:
            url += ("&" if urlsplit(url).query else "?") + urlencode(parameters)
        return self._authenticated(method, url, scopes, dict(headers or {}), body, retry)

    def plain_request(self, url: str, headers: Mapping[str, str]) -> Response:
        """GET an address that is not an endpoint's (a foreign layer's), without credentials of any kind."""
        return self._followed("GET", url, dict(headers), "", None, True)

    @property
    def retry_delays(self) -> tuple[float, ...]:
        """Seconds between tries of what is retried as a whole."""
        return self._config.retry_delays

    def close(self) -> None:
        """Drop idle connections; requests at work go on."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.clear()

    def _authenticated(
        self, method: str, url: str, scopes: frozenset[str], headers: dict[str, str], body: Body | None, retry: bool
    ) -> Response:
        own = origin_of(url) == self.endpoint.origin
        authorization = self._authorizer.header(scopes) if own else ""
        for attempt in range(3):
            response = self._followed(method, url, headers, authorization, body, retry)
            challenge = response.headers.get("WWW-Authenticate", "")
            if response.status != 401 or not own or not challenge or attempt == 2:
                return response
            if origin_of(getattr(response, "portside_url", url)) != self.endpoint.origin:
                return response
            discard(response)
            authorization = self._authorizer.challenged(challenge, scopes, authorization)
        raise AssertionError("the last attempt returns")

    def _followed(
        self, method: str, url: str, headers: dict[str, str], authorization: str, body: Body | None, retry: bool
    ) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            own = origin_of(url) == self.endpoint.origin
            response = self._retried(method, url, self._headers(headers, authorization, own, body), body, own, retry)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location or (method not in ("GET", "HEAD") and body is None):
                response.portside_url = url  # type: ignore[attr-defined]
                return response
            discard(response)
            target = urljoin(url, location)
            if origin_of(target)[0] == "http" and origin_of(url)[0] == "https":
                raise Unavailable(f"{_host(url)} redirects to {_host(target)} without TLS")
            url = target
        raise Unavailable(f"{_host(url)} redirects more than {MAX_REDIRECTS} times")

    def _headers(self, headers: Mapping[str, str], authorization: str, own: bool, body: Body | None) -> dict[str, str]:
        result = {"User-Agent": self._config.user_agent, "Accept-Encoding": "identity", **headers}
        if own:
            result |= dict(self.endpoint.headers)
            if authorization:
                result["Authorization"] = authorization
        if body is not None:
            result |= {"Content-Length": str(body.size), "Content-Type": body.media_type}
        return result

    def _retried(
        self, method: str, url: str, headers: dict[str, str], body: Body | None, own: bool, retry: bool
    ) -> Response:
        delays = list(self._config.retry_delays) if retry else []
        while True:
            try:
                response = self._send(method, url, headers, body, own)
                if response.status not in _RETRIED or not delays:
                    return response
                discard(response)
            except _TRANSIENT as error:
                if not delays or isinstance(error, urllib3.exceptions.NewConnectionError):
                    raise Unavailable(f"{_host(url)}: {explain(error)}") from error
            except urllib3.exceptions.HTTPError as error:
                raise Unavailable(f"{_host(url)}: {explain(error)}") from error
            time.sleep(delays.pop(0))

    def _send(self, method: str, url: str, headers: dict[str, str], body: Body | None, own: bool) -> Response:
        trace = self._config.trace
        if trace is not None:
            trace(request_text(method, url, headers))
        response: Response = self._pool(url, own).urlopen(
            method, url, headers=headers, body=body.open() if body is not None else None,
            redirect=False, retries=False, preload_content=False, decode_content=False,
        )  # type: ignore[no-untyped-call, no-any-return, unused-ignore]  # fmt: skip
        if trace is not None:
            trace(answer_text(method, url, response.status, response.headers))
        return response

    def _pool(self, url: str, own: bool) -> urllib3.PoolManager:
        """One pool for the endpoint, which may get our certificate, one for everybody else; per proxy."""
        scheme, host, _ = origin_of(url)
        proxies = {} if is_loopback(host) or proxy_bypass(host) else getproxies()
        proxy = proxies.get(scheme, "")
        with self._lock:
            pool = self._pools.get((own, scheme, proxy))
            if pool is None:
                pool = self._pools[own, scheme, proxy] = self._make_pool(own, scheme, proxy)
            return pool

    def _make_pool(self, own: bool, scheme: str, proxy: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=self.endpoint.dial_timeout, read=self._config.read_timeout),
            "retries": False, "maxsize": 16, "blocksize": _BLOCK,
        }  # fmt: skip
        if scheme == "https":
            options["ssl_context"] = self._tls(own)
        return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def _tls(self, own: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            for file in self.endpoint.ca:
                context.load_verify_locations(file)
            for certificate, key in self.endpoint.client if own else ():
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise errors.InvalidArgument(f"certificates for {self.endpoint.host}: {error}") from error
        if self.endpoint.skip_verify and own:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it was asked for
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _token_request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        sent = {"User-Agent": self._config.user_agent, "Accept-Encoding": "identity", **headers}
        own = origin_of(url) == self.endpoint.origin
        content = Body(len(body), lambda: body, sent.pop("Content-Type", "")) if body is not None else None
        if content is not None:
            sent |= {"Content-Length": str(content.size), "Content-Type": content.media_type}
        response = self._retried(method, url, sent, content, own, True)
        return response.status, read_limited(response, MAX_TOKEN_ANSWER, f"{_host(url)}: the token")


def read_limited(response: Response, limit: int, what: str) -> bytes:
    """The whole body; ResourceExhausted above ``limit`` bytes, Unavailable if it ends early. Closes it."""
    try:
        parts, size = [], 0
        while data := response.read(1 << 16):
            parts.append(data)
            size += len(data)
            if size > limit:
                raise errors.ResourceExhausted(f"{what} is larger than {limit} bytes")
        return b"".join(parts)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unavailable(f"{what}: {explain(error)}") from error
    finally:
        response.close()


def discard(response: Response) -> None:
    """Done with it: the connection goes back if little is left to read, else it is closed."""
    try:
        if int(response.headers.get("Content-Length", MAX_ERROR_BODY + 1)) <= MAX_ERROR_BODY:
            response.read(MAX_ERROR_BODY)
            response.release_conn()
            return
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        pass
    response.close()


def check(response: Response, *expected: int) -> None:
    """The error that an answer means, unless its status is expected; then the body is closed."""
    status = response.status
    if status in expected:
        return
    detail = _detail(response)
    kinds: dict[int, type[errors.PortsideError]] = {
        401: errors.Unauthenticated, 403: errors.PermissionDenied, 404: errors.NotFound, 410: errors.NotFound,
        400: errors.InvalidArgument, 405: errors.Unimplemented, 413: errors.ResourceExhausted,
        416: errors.OutOfRange, 429: errors.Unavailable,
    }  # fmt: skip
    kind = kinds.get(status) or (errors.Unavailable if status >= 500 else errors.Unknown)
    if kind is errors.NotFound:
        raise kind("not found")
    what = {401: "authentication is needed", 403: "access denied", 429: "too many requests"}.get(status, "")
    raise kind(" ".join(part for part in (what or f"the registry answers with status {status}", detail) if part))


def _detail(response: Response) -> str:
    """The registry's own words (distribution-spec, "Error Codes"), cut and made printable; empty if there are none."""
    try:
        document = json.loads(read_limited(response, MAX_ERROR_BODY, "error"))
        first = document["errors"][0]
        text = f"{first.get('code', '')}: {first.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, errors.PortsideError):
        return ""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return f"({printable[:_MAX_DETAIL]})"


def explain(error: BaseException) -> str:
    """What went wrong with a connection, in few words. The library's own texts hold whole URLs."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__ or _wrapped(seen)
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            return f"TLS: {each.reason or 'failed'}"
        if isinstance(each, urllib3.exceptions.NameResolutionError):
            return "no such host"
        if isinstance(each, urllib3.exceptions.IncompleteRead):
            return "the answer ends early"
    for each in chain:
        if isinstance(each, OSError) and each.errno:
            return (each.strerror or "connection failed").lower()
    return "does not answer in time" if isinstance(error, urllib3.exceptions.TimeoutError) else "the connection failed"


def _wrapped(error: BaseException) -> BaseException | None:
    return next((each for each in error.args if isinstance(each, BaseException)), None)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
