"""What a driver keeps beside the files of a snapshot."""

from __future__ import annotations

import os

import pytest

from portside.core.snapshots import Kind, Remembering
from portside.errors import NotFound
from portside.snapshots.directories import ABOUT
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver

FACTS = {"namespace": "ns", "key": "k", "parent": "", "kind": 2, "labels": {"ä": "\udcff"}, "created": 1}


@pytest.mark.parametrize("kind", [NativeDriver, OverlayDriver])
def test_what_is_kept_comes_back(tmp_path, kind):
    driver = kind(tmp_path)
    assert isinstance(driver, Remembering)
    driver.create(1, Kind.ACTIVE, [])
    assert driver.remembered(1) == {} and driver.remembered(2) == {}
    before = driver.usage(1)
    driver.remember(1, FACTS)
    assert driver.remembered(1) == FACTS
    driver.remember(1, {**FACTS, "kind": 3})
    assert driver.remembered(1)["kind"] == 3 and driver.usage(1) == before
    assert sorted(os.listdir(driver.files(1).parent)) == sorted(
        {"fs", ABOUT} | ({"work"} if kind is OverlayDriver else set())
    )
    assert os.stat(driver.files(1).parent / ABOUT).st_mode & 0o777 == 0o600
    with pytest.raises(NotFound):
        driver.remember(2, FACTS)
    driver.remove(1)
    driver.sweep()
    assert driver.remembered(1) == {}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"text"'])
def test_what_makes_no_sense_is_nothing(tmp_path, text):
    driver = OverlayDriver(tmp_path)
    driver.create(1, Kind.ACTIVE, [])
    (driver.files(1).parent / ABOUT).write_bytes(text)
    assert driver.remembered(1) == {}
    (driver.files(1).parent / ABOUT).unlink()
    (driver.files(1).parent / ABOUT).mkdir()
    assert driver.remembered(1) == {}
