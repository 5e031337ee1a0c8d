"""How to speak to a registry, from the command line."""

from __future__ import annotations

import getpass
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portside.cli.ctr.grammar import Flag, Values
from portside.cli.options import Option
from portside.client.progress import Progress
from portside.errors import InvalidArgument
from portside.oci.platform import Platform
from portside.registry.client import Registry
from portside.registry.credentials import DockerCredentials
from portside.registry.endpoints import CredentialsCallback, RegistryConfig

REGISTRY_OPTIONS = (
    Option("-k", "--skip-verify", help="do not check certificates"),
    Option("--plain-http", help="without TLS"),
    Flag("--user", "-u", value="USER[:PASSWORD]", help="credentials"),
    Flag("--refresh", value="TOKEN", help="a refresh token for the authorization server"),
    Flag("--hosts-dir", value="DIR", help="directories with hosts.toml"),
    Flag("--tlscacert", value="FILE", help="certificates of authorities"),
    Flag("--tlscert", value="FILE", help="our certificate"),
    Flag("--tlskey", value="FILE", help="its key"),
    Option("--http-dump", help="show requests and answers on standard error"),
    Option("--http-trace", help="show connections on standard error"),
)
PLATFORMS = (
    Flag("--platform", value="OS/ARCH", many=True, help="which platform"),
    Option("--all-platforms", help="all platforms"),
)
METADATA = (
    Option("--skip-metadata", help="without the documents of platforms that are not wanted"),
    Option("--all-metadata", help="with them; always so but for --skip-metadata"),
)
_TOKEN = "<token>"  # the user that says: the secret is an identity token (docker's convention)


@asynccontextmanager
async def registry_of(values: Values) -> AsyncIterator[Registry]:
    """A registry's client, closed at the end."""
    if bool(values["tlscert"]) != bool(values["tlskey"]):
        raise InvalidArgument("--tlscert and --tlskey belong together")
    if values["http_dump"] or values["http_trace"]:
        _show_traffic(values["http_dump"])
    registry = Registry(
        RegistryConfig(
            plain_http=True if values["plain_http"] else None, skip_verify=values["skip_verify"],
            ca=(values["tlscacert"],) if values["tlscacert"] else (),
            client=((values["tlscert"], values["tlskey"]),) if values["tlscert"] else (),
            credentials=_credentials(values), hosts_dir=values["hosts_dir"] or None,
        )
    )  # fmt: skip
    try:
        yield registry
    finally:
        await registry.close()


def _credentials(values: Values) -> CredentialsCallback:
    """Those of the command line, else what docker has stored. A user without a password is asked for it."""
    user, colon, secret = values["user"].partition(":")
    if user and not colon:
        secret = getpass.getpass("Password: ")
    if values["refresh"]:
        user, secret = _TOKEN, values["refresh"]
    return (lambda host: (user, secret)) if user else DockerCredentials()


def _show_traffic(dump: bool) -> None:
    import http.client
    import logging

    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("urllib3").addHandler(handler)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    if dump:
        http.client.HTTPConnection.debuglevel = 1
        # http.client prints; what it prints must not get among our output.
        http.client.print = lambda *words: print(*words, file=sys.stderr)  # type: ignore[attr-defined]


def platforms_of(values: Values) -> tuple[Platform, ...]:
    """What ``--platform`` names; InvalidArgument."""
    if values["platform"] and values["all_platforms"]:
        raise InvalidArgument("--platform and --all-platforms exclude each other")
    return tuple(Platform.parse(text) for text in values["platform"])


def tell(progress: Progress) -> None:
    """What is done, one line each, on standard error."""
    if progress.offset == progress.total:
        print(f"{progress.object}: {progress.stage}", file=sys.stderr)
