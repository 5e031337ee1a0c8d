import json
import logging
import re

import pytest

from portside.daemon.logs import configure

log = logging.getLogger("portside.test")


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def say():
    log.debug("quiet")
    log.warning("two\nlines %s", "é")
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")


def test_text(capsys):
    configure("info")
    say()
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r'time="\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z" level=warning msg="two\\nlines é" part=test', first)
    assert 'level=error msg="failed" part=test trace="Traceback' in second


def test_json(capsys):
    configure("debug", "json")
    say()
    quiet, first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert quiet["level"] == "debug"
    assert (first["level"], first["msg"], first["part"]) == ("warning", "two\nlines é", "test")
    assert second["trace"].endswith("ValueError: bad") and set(second) == {"time", "level", "msg", "part", "trace"}
