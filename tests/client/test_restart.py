"""Restart policies as labels."""

from __future__ import annotations

import pytest

from portside.client.restart import RestartPolicy, count_of, policy_of, restart_labels
from portside.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "name", "retries"),
    [
        ("", "no", 0),
        ("no", "no", 0),
        ("always", "always", 0),
        ("unless-stopped", "unless-stopped", 0),
        ("on-failure", "on-failure", 0),
        ("on-failure:0", "on-failure", 0),
        ("on-failure:17", "on-failure", 17),
    ],
)
def test_what_can_be_said(text: str, name: str, retries: int) -> None:
    assert RestartPolicy.parse(text) == RestartPolicy(name, retries)


@pytest.mark.parametrize(
    "text",
    ["Always", "always:3", "no:1", "unless-stopped:", "on-failure:", "on-failure:-1", "on-failure:٣", "on-failure:1:2"]
    + ["on-failure:99999999999999999999", "never", " always"],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(InvalidArgument, match="restart policy"):
        RestartPolicy.parse(text)


def test_labels_and_back() -> None:
    assert restart_labels(RestartPolicy.parse("no"), "log://x") == {}
    labels = restart_labels(RestartPolicy.parse("on-failure:3"), "log://x")
    assert labels == {
        "containerd.io/restart.status": "created",
        "containerd.io/restart.policy": "on-failure:3",
        "containerd.io/restart.loguri": "log://x",
    }
    assert policy_of(labels) == RestartPolicy("on-failure", 3)
    assert policy_of({"containerd.io/restart.policy": "always"}).name == "no"
    assert policy_of({"containerd.io/restart.status": "running"}).name == "always"
    assert policy_of({"containerd.io/restart.status": "running", "containerd.io/restart.policy": "odd"}).name == "no"


@pytest.mark.parametrize(("text", "count"), [("", 0), ("7", 7), ("x", 0), ("-1", 0), ("9" * 40, 0)])
def test_a_count(text: str, count: int) -> None:
    assert count_of({"containerd.io/restart.count": text}) == count
