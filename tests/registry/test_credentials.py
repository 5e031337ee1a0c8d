import base64
import json

import pytest

from portside.errors import InvalidArgument, Unavailable
from portside.registry.auth import Challenge, parse_challenges
from portside.registry.credentials import DockerCredentials


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def config(tmp_path):
    def write(document):
        path = tmp_path / "config.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return DockerCredentials(path)

    return write


def test_auths(config):
    ask = config({"auths": {
        "example.org:5000": {"auth": encoded("user:pass:word")},
        "https://index.docker.io/v1/": {"auth": encoded("hub:secret")},
        "https://other.org": {"username": "u", "password": "p"},
        "token.org": {"auth": encoded("x:y"), "identitytoken": "refresh"},
        "empty.org": {},
    }})  # fmt: skip
    assert ask("example.org:5000") == ("user", "pass:word")
    assert ask("docker.io") == ask("registry-1.docker.io") == ("hub", "secret")
    assert ask("other.org") == ("u", "p")
    assert ask("token.org") == ("<token>", "refresh")
    assert ask("empty.org") is None and ask("example.org") is None


def test_no_file(tmp_path):
    assert DockerCredentials(tmp_path / "missing.json")("example.org") is None


@pytest.mark.parametrize("document", ["{", "[]", "[" * 100_000, '{"auths": {"h": {"auth": "s3cret!!"}}}'])
def test_broken_files_are_told_without_their_content(config, document):
    with pytest.raises(InvalidArgument, match=r"config\.json") as caught:
        config(document)("h")
    assert "s3cret" not in str(caught.value)


def test_odd_entries_are_passed_over(config):
    assert config({"auths": [], "credHelpers": 5})("h") is None
    assert config({"auths": {"h": 5}})("h") is None


@pytest.fixture
def helper(tmp_path, monkeypatch):
    def make(script):
        program = tmp_path / "docker-credential-test"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def test_helpers_are_asked_with_the_host(config, helper):
    helper('read host; echo "{\\"Username\\": \\"$host\\", \\"Secret\\": \\"s\\"}"')
    assert config({"credHelpers": {"example.org": "test"}})("example.org") == ("example.org", "s")
    assert config({"credsStore": "test"})("docker.io") == ("https://index.docker.io/v1/", "s")


def test_a_helper_that_knows_nothing_leaves_it_to_the_file(config, helper):
    helper("echo credentials not found; exit 1")
    ask = config({"credsStore": "test", "auths": {"h": {"auth": encoded("u:p")}}})
    assert ask("h") == ("u", "p") and ask("other") is None


@pytest.mark.parametrize("script", ["echo no json s3cret", "echo []", 'echo \'{"Username": "u"}\''])
def test_helpers_that_do_not_work(config, helper, script):
    helper(script)
    with pytest.raises(Unavailable, match="docker-credential-test") as caught:
        config({"credsStore": "test"})("h")
    assert "s3cret" not in str(caught.value)


def test_helpers_that_are_missing_or_no_names(config):
    with pytest.raises(Unavailable, match="not installed"):
        config({"credsStore": "no-such-helper-here"})("h")
    with pytest.raises(InvalidArgument, match="not a name"):
        config({"credsStore": "../../bin/sh"})("h")


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
         [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})]),
        ('Basic realm="a \\"quoted\\" one"', [("basic", {"realm": 'a "quoted" one'})]),
        ('Basic realm=x, Bearer realm="y" , service=z',
         [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})]),
        ("Negotiate", [("negotiate", {})]),
        ("", []), ('"', []), ("=,=", []),
    ],
)  # fmt: skip
def test_challenges(header, challenges):
    assert parse_challenges(header) == [Challenge(*each) for each in challenges]


def test_long_challenges_end():
    parse_challenges("Bearer " + 'a="' + "\\" * 1_000_000)
    parse_challenges("A " * 100_000)
