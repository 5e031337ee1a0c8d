"""Garbage collection as clients meet it: Debian's ctr, which holds nothing by leases when it ingests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.peers import Daemon, wait_for

pytestmark = pytest.mark.root

NAMESPACE = "collections"


def ctr(daemon: Daemon, *words: str, **more: object) -> str:
    return daemon.ctr("-n", NAMESPACE, *words, **more).stdout


def path(daemon: Daemon, data: str) -> Path:
    blobs = daemon.root / "io.containerd.content.v1.content/blobs/sha256"
    return blobs / hashlib.sha256(data.encode()).hexdigest()


def ingest(daemon: Daemon, data: str) -> str:
    ctr(daemon, "content", "ingest", data, input=data)
    return "sha256:" + hashlib.sha256(data.encode()).hexdigest()


def test_what_was_just_ingested_survives_the_collection_after_a_removal(daemon: Daemon) -> None:
    old = ingest(daemon, "old")
    new = ingest(daemon, "new")
    ctr(daemon, "content", "rm", old)
    wait_for(lambda: not path(daemon, "old").exists(), "the bytes of a removed blob to go")
    assert ctr(daemon, "content", "get", new) == "new"
    ctr(daemon, "content", "rm", new)


def test_a_removal_with_sync_has_freed_the_space_on_return(daemon: Daemon, busybox: str) -> None:
    ctr(daemon, "images", "pull", "--plain-http", busybox)
    snapshots = daemon.root / "io.containerd.snapshotter.v1.overlayfs"
    assert ctr(daemon, "content", "ls", "-q") and list((snapshots / "snapshots").iterdir())
    ctr(daemon, "images", "rm", "--sync", busybox)
    assert ctr(daemon, "content", "ls", "-q") == ""
    for directory in (snapshots / "snapshots", snapshots / "removed", path(daemon, "").parent):
        assert list(directory.iterdir()) == []


def test_an_idle_daemon_ends_a_lease_that_expires(daemon: Daemon) -> None:
    ctr(daemon, "leases", "create", "--id", "short", "--expires", "1s")
    ctr(daemon, "leases", "create", "--id", "long", "--expires", "1h")
    wait_for(lambda: ctr(daemon, "leases", "ls", "-q").split() == ["long"], "the lease that expires to go")
    ctr(daemon, "leases", "rm", "--sync", "long")
