"""A registry that answers what it likes: nothing hangs, nothing grows, no secret goes where it should not."""

import base64
import json
import os

import pytest

from portside.core.content import MAX_DOCUMENT
from portside.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PortsideError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from portside.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from portside.registry import Registry, RegistryConfig
from portside.registry.endpoints import is_loopback

DATA = os.urandom(2_500_000)
BLOB = Descriptor(LAYER_GZIP, Digest.of(DATA), len(DATA))
BLOB_PATH = f"/v2/name/blobs/{BLOB.digest}"
DOCUMENT = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": []}).encode()
TAG_PATH = "/v2/name/manifests/tag"
USER, SECRET = "someone", "s3cr3t-w0rd"
BASIC = "Basic " + base64.b64encode(f"{USER}:{SECRET}".encode()).decode()


@pytest.fixture
async def registry():
    made = Registry(RegistryConfig(retry_delays=(0, 0), read_timeout=5, credentials=lambda host: (USER, SECRET)))
    yield made
    await made.close()


def reference(server, tag="tag"):
    return Reference.parse(f"{server.host}/name:{tag}")


async def fetched(registry, server, descriptor=BLOB, offset=0):
    return b"".join([part async for part in registry.fetch(reference(server), descriptor, offset)])


def manifest(document=DOCUMENT, media_type=MANIFEST, **headers):
    def route(handler):
        handler.reply(200, document, Content_Type=media_type, **headers)

    return route


# Resolving


async def test_without_a_digest_in_the_answer_the_document_is_read(registry, server):
    server.routes[TAG_PATH] = manifest()
    assert await registry.resolve(reference(server)) == Descriptor(MANIFEST, Digest.of(DOCUMENT), len(DOCUMENT))
    assert [method for method, _, _ in server.requests] == ["HEAD", "GET"]
    assert "application/vnd.oci.image.index.v1+json" in server.requests[0][2]["Accept"]


async def test_no_head(registry, server):
    server.routes["GET", TAG_PATH] = manifest()
    server.routes["HEAD", TAG_PATH] = lambda handler: handler.reply(405)
    assert (await registry.resolve(reference(server))).digest == Digest.of(DOCUMENT)


async def test_another_digest_than_asked_for(registry, server):
    wrong = Digest.of(b"wrong")
    asked = Reference.parse(f"{server.host}/name@{wrong}")
    server.routes[f"/v2/name/manifests/{wrong}"] = manifest()
    with pytest.raises(DataLoss, match=r"^pull .*: the registry answers with sha256:"):
        await registry.resolve(asked)
    server.routes[f"/v2/name/manifests/{wrong}"] = manifest(Docker_Content_Digest=Digest.of(DOCUMENT))
    with pytest.raises(DataLoss):
        await registry.resolve(asked)


async def test_a_document_that_is_not_its_stated_digest(registry, server):
    server.routes["GET", TAG_PATH] = manifest(Docker_Content_Digest=Digest.of(b"else"))
    with pytest.raises(DataLoss, match="as the registry says"):
        await registry.resolve(reference(server))


@pytest.mark.parametrize(
    ("document", "media_type", "kind"),
    [
        (b"{", MANIFEST, InvalidArgument),
        (b"[]", MANIFEST, InvalidArgument),
        (b"[" * 100_000, MANIFEST, InvalidArgument),
        (b'{"config": {}, "layers": [], "manifests": []}', MANIFEST, InvalidArgument),
        (b'{"config": {}, "layers": [], "manifests": []}', INDEX, InvalidArgument),
        (json.dumps({"mediaType": INDEX, "layers": [], "config": {}}).encode(), MANIFEST, InvalidArgument),
        (json.dumps({"mediaType": MANIFEST, "manifests": []}).encode(), "application/json", Unimplemented),
        (
            b'{"schemaVersion": 1, "fsLayers": []}',
            "application/vnd.docker.distribution.manifest.v1+json",
            Unimplemented,
        ),
        (b"{}", "text/html", Unimplemented),
    ],
)
async def test_documents_that_are_no_images_or_two_things_at_once(registry, server, document, media_type, kind):
    server.routes[TAG_PATH] = manifest(document, media_type)
    with pytest.raises(kind, match=r"^pull .*/name:tag: "):
        await registry.resolve(reference(server))


async def test_an_endless_document(registry, server):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", MANIFEST)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.hang_up()
        if handler.command == "GET":
            try:
                while True:
                    handler.wfile.write(b" " * 65536)
            except OSError:
                pass

    server.routes[TAG_PATH] = endless
    with pytest.raises(ResourceExhausted, match=f"the manifest is larger than {MAX_DOCUMENT} bytes"):
        await registry.resolve(reference(server))


async def test_a_document_is_verified(registry, server):
    descriptor = Descriptor(CONFIG, Digest.of(b"right"), 5)
    server.routes[f"/v2/name/blobs/{descriptor.digest}"] = lambda handler: handler.reply(200, b"wrong")
    with pytest.raises(DataLoss, match="what came is not"):
        await registry.fetch_document(reference(server), descriptor)
    with pytest.raises(InvalidArgument, match="larger than"):
        await registry.fetch_document(reference(server), Descriptor(CONFIG, descriptor.digest, 1 << 40))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (403, PermissionDenied), (429, Unavailable), (500, Unavailable), (503, Unavailable)],
)
async def test_statuses(registry, server, status, kind):
    body = json.dumps({"errors": [{"code": "CODE", "message": "their\nwords\x1b[31m" + "x" * 5000}]}).encode()
    server.routes[TAG_PATH] = lambda handler: handler.reply(status, body)
    with pytest.raises(kind) as caught:
        await registry.resolve(reference(server))
    text = str(caught.value)
    assert text.startswith(f"pull {server.host}/name:tag: ") and len(text) < 400
    assert "\n" not in text and "\x1b" not in text


# Fetching


def ranged(handler):
    """As a good registry."""
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if start:
        handler.reply(206, DATA[start:], Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
    else:
        handler.reply(200, DATA)


def breaking(handler):
    """Hangs up after a megabyte, each time."""
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(DATA) - start))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
    handler.end_headers()
    handler.wfile.write(DATA[start : start + 1_000_000])
    handler.hang_up()


def without_ranges(handler):
    """Hangs up in the middle the first time, and then sends all from the start, whatever was asked for."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.end_headers()
    handler.wfile.write(DATA if handler.headers.get("Range") else DATA[:1_500_000])
    handler.hang_up()


@pytest.mark.parametrize("route", [ranged, breaking, without_ranges])
async def test_connections_that_break_are_taken_up(registry, server, route):
    server.routes[BLOB_PATH] = route
    assert await fetched(registry, server) == DATA
    assert await fetched(registry, server, offset=2_000_000) == DATA[2_000_000:]


async def test_a_blob_that_never_gets_further(registry, server):
    def route(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.hang_up()

    server.routes[BLOB_PATH] = route
    with pytest.raises(Unavailable, match=f"^pull .*: fetch {BLOB.digest}: .* after 0 of {len(DATA)} bytes$"):
        await fetched(registry, server)
    assert len(server.requests) == 3


async def test_a_blob_that_is_shorter_than_its_descriptor(registry, server):
    server.routes[BLOB_PATH] = lambda handler: handler.reply(200, DATA[:1000])
    with pytest.raises(PortsideError, match="fetch"):
        await fetched(registry, server)


async def test_a_blob_that_does_not_end(registry, server):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.hang_up()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    server.routes[BLOB_PATH] = endless
    with pytest.raises(DataLoss, match=f"there is more than the {len(DATA)} bytes announced"):
        await fetched(registry, server)


async def test_another_range_than_asked_for(registry, server):
    server.routes[BLOB_PATH] = lambda handler: handler.reply(206, DATA[5:], Content_Range="bytes 5-99/100")
    with pytest.raises(Unavailable, match="answers a range from 10 with another"):
        await fetched(registry, server, offset=10)


async def test_giving_up_early_frees_the_connection(registry, server):
    server.routes[BLOB_PATH] = ranged
    parts = registry.fetch(reference(server), BLOB)
    await anext(parts)
    await parts.aclose()
    assert await fetched(registry, server) == DATA


async def test_what_fails_for_a_moment_is_tried_again(registry, server):
    answers = [lambda handler: handler.reply(503), lambda handler: handler.hang_up(), manifest()]
    server.routes["HEAD", TAG_PATH] = lambda handler: handler.reply(404)
    server.routes["GET", TAG_PATH] = lambda handler: answers.pop(0)(handler)
    assert (await registry.resolve(reference(server))).digest == Digest.of(DOCUMENT)


# Redirects and credentials


def wants_basic(then):
    def route(handler):
        if handler.headers.get("Authorization") == BASIC:
            then(handler)
        else:
            handler.reply(401, b"", WWW_Authenticate='Basic realm="x"')

    return route


async def test_redirects_to_another_host_lose_the_credentials(registry, server, make_server):
    other = make_server()
    other.routes["/stored"] = ranged
    server.routes[BLOB_PATH] = wants_basic(
        lambda handler: handler.reply(307, b"", Location=f"http://{other.host}/stored?signature=abc")
    )
    assert await fetched(registry, server) == DATA
    assert server.authorizations() == [BASIC] and other.authorizations() == []


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{}/token",service="s"'])
async def test_where_a_redirect_leads_gets_no_credentials_though_it_asks(registry, server, make_server, challenge):
    other, realm = make_server(), make_server()
    other.routes["/stored"] = lambda handler: handler.reply(401, b"", WWW_Authenticate=challenge.format(realm.host))
    server.routes[BLOB_PATH] = wants_basic(
        lambda handler: handler.reply(302, b"", Location=f"http://{other.host}/stored")
    )
    with pytest.raises(Unauthenticated):
        await fetched(registry, server)
    assert other.authorizations() == [] and realm.requests == []


async def test_configured_headers_stay_with_the_endpoint(server, make_server):
    other = make_server()
    other.routes["/stored"] = ranged
    server.routes[BLOB_PATH] = lambda handler: handler.reply(307, b"", Location=f"http://{other.host}/stored")
    registry = Registry(RegistryConfig(headers={"X-Key": SECRET}))
    assert await fetched(registry, server) == DATA
    assert server.requests[0][2]["X-Key"] == SECRET
    assert "X-Key" not in other.requests[0][2]
    await registry.close()


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{}/token",service="s"'])
async def test_foreign_layers_never_get_credentials(registry, server, make_server, challenge):
    other, realm = make_server(), make_server()
    other.routes["/layer"] = lambda handler: handler.reply(401, b"", WWW_Authenticate=challenge.format(realm.host))
    foreign = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size, urls=(f"http://{other.host}/layer",))
    server.routes[BLOB_PATH] = wants_basic(lambda handler: handler.reply(404))
    with pytest.raises(PortsideError):
        await fetched(registry, server, foreign)
    assert other.requests and other.authorizations() == [] and realm.requests == []


async def test_foreign_layers_are_fetched_from_where_they_are(registry, server, make_server):
    other = make_server()
    other.routes["/layer"] = ranged
    urls = (f"http://{other.host}/missing", "ftp://x/y", f"http://{other.host}/layer")
    foreign = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size, urls=urls)
    assert await fetched(registry, server, foreign) == DATA


async def test_redirects_in_a_circle_and_without_tls(registry, server):
    server.routes[BLOB_PATH] = lambda handler: handler.reply(302, b"", Location=BLOB_PATH)
    with pytest.raises(Unavailable, match="redirects more than 10 times"):
        await fetched(registry, server)
    server.routes[BLOB_PATH] = lambda handler: handler.reply(302, b"", Location="file:///etc/passwd")
    with pytest.raises(PortsideError):
        await fetched(registry, server)


def token_server(server, token="t0ken", status=200, answer=None):
    """Gives ``token`` to whoever asks with the right credentials."""

    def route(handler):
        body = json.dumps({"token": token, "expires_in": 300}).encode() if answer is None else answer
        handler.reply(status if handler.headers.get("Authorization") == BASIC else 401, body)

    server.routes["/token"] = route


def wants_token(server, realm, then, token="t0ken"):
    challenge = f'Bearer realm="http://{realm.host}/token",service="their service",scope="repository:name:pull"'

    def route(handler):
        if handler.headers.get("Authorization") == f"Bearer {token}":
            then(handler)
        else:
            handler.reply(401, b"", WWW_Authenticate=challenge)

    server.routes[BLOB_PATH] = server.routes[TAG_PATH] = route


async def test_tokens(registry, server, make_server):
    realm = make_server()
    token_server(realm)
    wants_token(server, realm, ranged)
    for _ in range(3):
        assert await fetched(registry, server) == DATA
    assert len(realm.requests) == 1, "a token is used until it expires"
    assert "scope=repository%3Aname%3Apull" in realm.requests[0][1] and "service=their+service" in realm.requests[0][1]
    assert BASIC not in server.authorizations(), "credentials are for the token server"


async def test_identity_tokens(server, make_server):
    realm = make_server()
    bodies = []

    def route(handler):
        bodies.append((handler.command, handler.body))
        handler.reply(200, b'{"access_token": "t0ken"}')

    realm.routes["/token"] = route
    wants_token(server, realm, ranged)
    registry = Registry(RegistryConfig(credentials=lambda host: ("<token>", "refresh")))
    assert await fetched(registry, server) == DATA
    await registry.close()
    ((method, body),) = bodies
    assert method == "POST" and b"grant_type=refresh_token" in body and b"refresh_token=refresh" in body


async def test_wrong_credentials_for_a_token(server, make_server):
    realm = make_server()
    token_server(realm)
    wants_token(server, realm, ranged)
    registry = Registry(RegistryConfig(credentials=lambda host: (USER, "wr0ng-w0rd")))
    with pytest.raises(Unauthenticated) as caught:
        await fetched(registry, server)
    assert "wr0ng" not in str(caught.value)
    await registry.close()


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (500, b"", Unavailable), (200, b"{", Unavailable), (200, b"[]", Unavailable),
        (200, b'{"token": 5}', Unavailable),
        (200, b'{"token": "a\\nb"}', Unavailable), (200, b'{"token": "' + b"x" * (1 << 21), ResourceExhausted),
        (403, b"", PermissionDenied),
    ],
)  # fmt: skip
async def test_token_servers_that_do_not_help(registry, server, make_server, status, answer, kind):
    realm = make_server()
    token_server(realm, status=status, answer=answer)
    wants_token(server, realm, ranged)
    with pytest.raises(kind, match=r"^pull "):
        await fetched(registry, server)


async def test_a_token_that_is_not_accepted_ends(registry, server, make_server):
    realm = make_server()
    token_server(realm, token="0ther")
    wants_token(server, realm, ranged)
    with pytest.raises(Unauthenticated):
        await fetched(registry, server)
    assert len(realm.requests) <= 3


@pytest.mark.parametrize("realm", ["", "ftp://x/y", "//x", "http://", "http://[::1", "javascript:x"])
async def test_token_servers_that_are_no_address(registry, server, realm):
    server.routes[BLOB_PATH] = lambda handler: handler.reply(401, b"", WWW_Authenticate=f'Bearer realm="{realm}"')
    with pytest.raises(PortsideError, match="no address"):
        await fetched(registry, server)


@pytest.mark.parametrize("header", ["", "Negotiate", "Digest realm=x", ",,,", '"', "Bearer"])
async def test_authentications_we_do_not_know(registry, server, header):
    server.routes[TAG_PATH] = lambda handler: handler.reply(401, b"", WWW_Authenticate=header)
    with pytest.raises(PortsideError):
        await registry.resolve(reference(server))


async def test_no_error_holds_a_secret(registry, server, make_server):
    """Every way to fail after authentication: neither secret, token nor query is in the text or in its causes."""
    other = make_server()
    other.routes["/stored"] = lambda handler: handler.hang_up()
    failures = [
        lambda handler: handler.hang_up(),
        lambda handler: handler.reply(500),
        lambda handler: handler.reply(403),
        lambda handler: handler.reply(307, b"", Location=f"http://u:{SECRET}@{other.host}/stored?sig={SECRET}"),
        lambda handler: handler.reply(307, b"", Location=f"http://u:{SECRET}@127.0.0.1:1/stored?sig={SECRET}"),
    ]
    for failure in failures:
        server.routes[BLOB_PATH] = wants_basic(failure)
        with pytest.raises(PortsideError) as caught:
            await fetched(registry, server)
        assert SECRET not in str(caught.value) and BASIC[6:] not in str(caught.value)


# Mirrors


def mirrors(tmp_path, host, text):
    directory = tmp_path / host
    directory.mkdir(exist_ok=True)
    (directory / "hosts.toml").write_text(text)


async def test_mirrors_come_first_and_are_told_the_name(server, make_server, tmp_path):
    mirror = make_server()
    mirror.routes[TAG_PATH] = manifest()
    mirrors(tmp_path, "example.org", f'server = "http://{server.host}"\n[host."http://{mirror.host}"]\n')
    asked = []
    registry = Registry(RegistryConfig(hosts_dir=str(tmp_path), credentials=asked.append))
    await registry.resolve(Reference.parse("example.org/name:tag"))
    assert server.requests == [] and mirror.requests[0][1] == f"{TAG_PATH}?ns=example.org"
    await registry.close()


async def test_what_a_mirror_does_not_have_comes_from_the_server(server, make_server, tmp_path):
    mirror, broken = make_server(), make_server()
    server.routes[TAG_PATH] = manifest()
    broken.routes[TAG_PATH] = broken.routes["/v2/name/manifests/other"] = lambda handler: handler.reply(500)
    mirrors(tmp_path, "example.org", f"""
        server = "http://{server.host}"
        [host."http://{broken.host}"]
        [host."http://127.0.0.1:1"]
        [host."http://{mirror.host}"]
        capabilities = ["resolve"]
        [host."http://127.0.0.1:2"]
        capabilities = ["push"]
    """)  # fmt: skip
    registry = Registry(RegistryConfig(hosts_dir=str(tmp_path), retry_delays=()))
    assert (await registry.resolve(Reference.parse("example.org/name:tag"))).digest == Digest.of(DOCUMENT)
    with pytest.raises(Unavailable, match="status 500"):
        await registry.resolve(Reference.parse("example.org/name:other"))
    await registry.close()


def test_loopback():
    assert all(
        map(is_loopback, ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]:5000", "a.localhost"])
    )
    assert not any(map(is_loopback, ["example.org", "127.example.org", "localhost.example.org", "10.0.0.1", "[::2]"]))
