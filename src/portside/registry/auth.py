"""Authentication against a registry: challenges, tokens, basic auth (RFC 9110 11, RFC 6750; distribution-spec, "Token
Authentication Specification").

Credentials go to two places only: to an endpoint out of the configuration that asked for basic auth, and to the token
server that such an endpoint named. What a redirect or a layer's ``urls`` leads to never gets any (``transport`` sees
to that). No message of this module holds a secret, a token or a query. Not here: requests other than those for tokens.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from portside.errors import InvalidArgument, PermissionDenied, PortsideError, Unauthenticated, Unavailable
from portside.registry.credentials import AUTHORIZATION_HEADER, IDENTITY_TOKEN
from portside.registry.endpoints import Credentials, Endpoint, is_loopback, origin_of

MAX_TOKEN_ANSWER = 1 << 20
_MAX_CHALLENGE = 16 << 10
_DEFAULT_LIFE = 60.0
_MARGIN = 10.0
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,\s*|$)', re.ASCII)
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One ``WWW-Authenticate``: ``scheme`` in lower case and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """All challenges of a header's value; what does not parse ends the list."""
    challenges = []
    rest = header[:_MAX_CHALLENGE]
    while match := _SCHEME.match(rest):
        rest = rest[match.end() :]
        parameters = {}
        while found := _PARAMETER.match(rest):
            quoted, token = found.group(2), found.group(3)
            parameters[found.group(1).lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
            rest = rest[found.end() :]
        challenges.append(Challenge(match.group(1).lower(), parameters))
        rest = rest.lstrip(", ")
    return challenges


class TokenRequest(Protocol):
    """Sends one request to a token server, without following redirects: status and body."""

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        """Unavailable if it cannot be reached."""
        ...


class Authorizer:
    """The ``Authorization`` headers for one endpoint. Used by several threads."""

    def __init__(
        self, endpoint: Endpoint, credentials: Callable[[str], Credentials | None], request: TokenRequest
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._request = request
        self._lock = threading.Lock()
        self._basic = ""
        self._bearer: Challenge | None = None
        self._tokens: dict[frozenset[str], tuple[str, float]] = {}

    def header(self, scopes: frozenset[str]) -> str:
        """What to send for ``scopes``, empty if nothing is known; asks for a token if the endpoint is known to want
        one."""
        with self._lock:
            if self._basic:
                return self._basic
            if self._bearer is None:
                return ""
            return "Bearer " + self._token(scopes)

    def challenged(self, header: str, scopes: frozenset[str], used: str) -> str:
        """The endpoint answered 401 with this ``WWW-Authenticate`` to a request that carried ``used``: what to send
        now.

        Unauthenticated if there is nothing to try, or it has been tried.
        """
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(header)}
        with self._lock:
            if "bearer" in challenges:
                challenge = challenges["bearer"]
                scopes = scopes | frozenset(challenge.parameters.get("scope", "").split())
                if used and challenge.parameters.get("error") == "insufficient_scope":
                    raise Unauthenticated("access denied: it does not exist, or needs other credentials")
                self._bearer = challenge
                if used and self._tokens.get(scopes, ("", 0.0))[0] == used.removeprefix("Bearer "):
                    del self._tokens[scopes]
                return "Bearer " + self._token(scopes)
            if "basic" in challenges:
                found = self._credentials(self._endpoint.host)
                if found is None:
                    raise Unauthenticated(f"{self._endpoint.host} asks for credentials, and there are none")
                header = _basic(found)
                if used == header:
                    raise Unauthenticated(f"{self._endpoint.host} does not accept the credentials")
                self._basic = header
                return header
        raise Unauthenticated(f"{self._endpoint.host} asks for an authentication that is not known")

    def _token(self, scopes: frozenset[str]) -> str:
        token, until = self._tokens.get(scopes, ("", 0.0))
        if token and time.monotonic() < until:
            return token
        token, life = self._fetch_token(scopes)
        self._tokens[scopes] = token, time.monotonic() + max(life - _MARGIN, 1.0)
        return token

    def _fetch_token(self, scopes: frozenset[str]) -> tuple[str, float]:
        assert self._bearer is not None
        realm = self._realm(self._bearer)
        query = [("service", self._bearer.parameters["service"])] if "service" in self._bearer.parameters else []
        query += [("scope", scope) for scope in sorted(scopes)]
        found = self._credentials(self._endpoint.host)
        server = urlsplit(realm).hostname
        if found is not None and found[0] in ("", IDENTITY_TOKEN):
            form = {
                "grant_type": "refresh_token", "refresh_token": found[1], "client_id": "portside",
                "service": self._bearer.parameters.get("service", ""), "scope": " ".join(sorted(scopes)),
            }  # fmt: skip
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, body = self._request("POST", realm, headers, urlencode(form).encode())
        else:
            headers = {"Authorization": _basic(found)} if found is not None else {}
            url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query)
            status, body = self._request("GET", url, headers, None)
        _check_token_status(status, server, found is not None)
        return _read_token(body, server)

    def _realm(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        try:
            scheme, host, _ = origin_of(realm)
        except PortsideError:
            raise InvalidArgument(f"{self._endpoint.host} names a token server that is no address") from None
        if scheme == "http" and self._endpoint.origin[0] == "https" and not is_loopback(host):
            raise InvalidArgument(f"{self._endpoint.host} names the token server {host} without TLS")
        return realm


def _basic(found: Credentials) -> str:
    if found[0] == AUTHORIZATION_HEADER:
        return found[1]
    return "Basic " + base64.b64encode(f"{found[0]}:{found[1]}".encode()).decode()


def _check_token_status(status: int, server: str | None, with_credentials: bool) -> None:
    if status in (400, 401, 403):
        what = "does not accept the credentials" if with_credentials else "gives no token without credentials"
        kind = PermissionDenied if status == 403 and with_credentials else Unauthenticated
        raise kind(f"the token server {server} {what}")
    if status != 200:
        raise Unavailable(f"the token server {server} answers with status {status}")


def _read_token(body: bytes, server: str | None) -> tuple[str, float]:
    try:
        answer: Any = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
        life = answer.get("expires_in") or _DEFAULT_LIFE
    except (ValueError, AttributeError, RecursionError):
        token, life = None, 0
    if not isinstance(token, str) or any(not 33 <= ord(character) <= 126 for character in token):
        raise Unavailable(f"the token server {server} gives an answer that is no token")
    return token, min(float(life), 3600.0) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE
