import json
import shutil
import ssl
import subprocess

import pytest

from portside.errors import InvalidArgument, Unavailable
from portside.oci.descriptor import MANIFEST
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from portside.registry import Registry, RegistryConfig

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
DOCUMENT = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": []}).encode()


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, a certificate of it for 127.0.0.1, and one for a client."""
    path = tmp_path_factory.mktemp("certificates")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(path, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    for name in ("server", "client"):
        openssl(
            path, "req", "-x509", *new_key, "-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", f"{name}.key",
            "-out", f"{name}.crt", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
    return path


def secured(make_server, certificates, client=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.crt")
    server = make_server(context)
    server.routes["/v2/name/manifests/tag"] = lambda handler: handler.reply(200, DOCUMENT, Content_Type=MANIFEST)
    return server


async def resolve(server, **config):
    registry = Registry(RegistryConfig(plain_http=False, retry_delays=(), **config))
    try:
        return (await registry.resolve(Reference.parse(f"{server.host}/name:tag"))).digest
    finally:
        await registry.close()


async def test_a_known_authority(make_server, certificates):
    server = secured(make_server, certificates)
    assert await resolve(server, ca=(str(certificates / "ca.crt"),)) == Digest.of(DOCUMENT)


async def test_an_unknown_authority(make_server, certificates):
    server = secured(make_server, certificates)
    with pytest.raises(Unavailable, match=r"^pull .*: its certificate is not accepted: "):
        await resolve(server)
    assert server.requests == []


async def test_not_verified_when_told_so(make_server, certificates):
    assert await resolve(secured(make_server, certificates), skip_verify=True) == Digest.of(DOCUMENT)


async def test_our_own_certificate(make_server, certificates):
    server = secured(make_server, certificates, client=True)
    ca, client = str(certificates / "ca.crt"), (str(certificates / "client.crt"), str(certificates / "client.key"))
    assert await resolve(server, ca=(ca,), client=(client,)) == Digest.of(DOCUMENT)
    with pytest.raises(Unavailable):
        await resolve(server, ca=(ca,))


async def test_authorities_beside_hosts_toml(make_server, certificates, tmp_path):
    server = secured(make_server, certificates)
    directory = tmp_path / server.host
    directory.mkdir()
    shutil.copy(certificates / "ca.crt", directory / "ca.crt")
    assert await resolve(server, hosts_dir=str(tmp_path)) == Digest.of(DOCUMENT), "docker's layout"
    (directory / "hosts.toml").write_text(f'[host."https://{server.host}"]\nca = "ca.crt"\n')
    assert await resolve(server, hosts_dir=str(tmp_path)) == Digest.of(DOCUMENT)
    (directory / "hosts.toml").write_text(f'[host."https://{server.host}"]\nca = "missing.crt"\n')
    with pytest.raises((InvalidArgument, Unavailable), match="certificate"):
        await resolve(server, hosts_dir=str(tmp_path))


async def test_plain_http_where_tls_was_wanted(make_server, certificates):
    with pytest.raises(Unavailable, match="TLS"):
        await resolve(make_server())
