"""The grammar and the tables of ``portside ctr`` by themselves, without a server."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.cli.ctr.grammar import Flag, Grammar, integer, parse_options, seconds
from portside.cli.ctr.spec import id_map, parse_mount
from portside.cli.ctr.text import (
    MIDDLE,
    NARROW,
    TABBED,
    WIDE,
    age,
    binary_size,
    decimal_size,
    iso_time,
    json_text,
    label_text,
    local_time,
    plain_time,
    table,
)
from portside.cli.options import Option, UsageError
from portside.errors import InvalidArgument

OPTIONS = (
    Option("-q", "--quiet", help=""),
    Option("-d", "--detach", help=""),
    Flag("--name", "-n", value="NAME", env="CTR_TEST_NAME", help=""),
    Flag("--env", value="ENV", many=True, help=""),
    integer("--limit", "", 7),
    Flag("--cpus", value="CPUS", default=0.0, convert=float, help=""),
    Flag("--after", value="DURATION", default=1.0, convert=seconds, help=""),
)


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("-q", "quiet", True), ("--quiet", "quiet", True), ("-quiet", "quiet", True), ("--q", "quiet", True),
        ("--quiet=false", "quiet", False), ("--quiet=T", "quiet", True), ("-q=0", "quiet", False), ("", "quiet", False),
        ("-qd", "detach", True), ("--name a", "name", "a"), ("--name=a=b", "name", "a=b"), ("-n a", "name", "a"),
        ("-name a", "name", "a"), ("--name=", "name", ""), ("", "name", ""), ("--env a --env b,c", "env", ["a", "b,c"]),
        ("", "limit", 7), ("--limit -5", "limit", -5), ("--limit 0x10", "limit", 16), ("--cpus 0.5", "cpus", 0.5),
        ("--after 1h30m", "after", 5400.0), ("--after 0", "after", 0.0), ("--name -q", "name", "-q"),
    ],
)  # fmt: skip
def test_options(words: str, key: str, value: object) -> None:
    values, rest = parse_options(OPTIONS, words.split())
    assert (values[key], rest) == (value, [])
    assert (key in values.given) == bool(words)


@pytest.mark.parametrize(
    "words",
    ["--nobody", "-x", "-qx", "--quiet=maybe", "--name", "--limit many", "--limit 1.5", "--limit ٣", "--cpus x",
     "--after soon", "--after 5"],
)  # fmt: skip
def test_bad_options(words: str) -> None:
    with pytest.raises(UsageError):
        parse_options(OPTIONS, words.split())


def test_where_options_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_options(OPTIONS, ["-q", "a", "-d"])[1] == ["a", "-d"]
    assert parse_options(OPTIONS, ["-q", "--", "-d"])[1] == ["-d"]
    assert parse_options(OPTIONS, ["-", "x"])[1] == ["-", "x"]
    program = Grammar("run", "IMAGE CONTAINER [COMMAND] [ARG...]", "", OPTIONS)
    values, rest = program.parse(["-q", "image", "id", "ls", "-d"])
    assert (values["detach"], rest) == (False, ["image", "id", "ls", "-d"])
    plain = Grammar("rm", "ID...", "", OPTIONS)
    values, rest = plain.parse(["a", "-d", "b"])
    assert (values["detach"], rest) == (True, ["a", "b"])
    with pytest.raises(UsageError, match="want ID"):
        plain.parse([])
    assert plain.parse(["-h"])[0]["help"]
    monkeypatch.setenv("CTR_TEST_NAME", "from the environment")
    values, _ = parse_options(OPTIONS, [])
    assert (values["name"], values.given) == ("from the environment", set())


def test_tables() -> None:
    """As text/tabwriter writes them."""
    lines = ["A\tBB\t", "long\tb\t"]
    assert table(lines, NARROW) == ["A    BB ", "long b  "]
    assert table(lines, WIDE) == ["A       BB    ", "long    b     "]
    assert table(["A\tB", "1\t2"], MIDDLE) == ["A    B", "1    2"]
    assert table(["A\tB\t", "12345678\tb\t"], TABBED) == ["A\t\tB\t", "12345678\tb\t"]
    assert table(["A\tB\tC\t", "a\tb\tc"]) == ["A B C ", "a b c"]
    assert table(["A\t", "", "long\t"]) == ["A ", "", "long "]
    assert table(["ä\tx", "aa\tx"]) == ["ä  x", "aa x"]
    assert table([]) == []


@given(st.lists(st.lists(st.text("ab ", max_size=9), min_size=3, max_size=3), min_size=1, max_size=9))
def test_columns_begin_together(rows: list[list[str]]) -> None:
    lines = table(["\t".join([*row[:2], "|"]) for row in rows])
    assert len({line.rindex("|") for line in lines}) == 1


def test_sizes() -> None:
    assert [binary_size(size) for size in (0, 1023, 1024, 1 << 20, 5 << 40)] == [
        "0.0 B", "1023.0 B", "1.0 KiB", "1.0 MiB", "5.0 TiB"]  # fmt: skip
    assert [decimal_size(size) for size in (0, 422, 1000, 1_094_761, 12_345_678_901)] == [
        "0B", "422B", "1kB", "1.095MB", "12.35GB"]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"), (1.5, "1 second"), (59.5, "59 seconds"), (61, "About a minute"),
        (150, "2 minutes"),
        (3700, "About an hour"), (7300, "2 hours"), (47 * 3600, "47 hours"), (50 * 3600, "2 days"),
        (15 * 86400, "2 weeks"), (70 * 86400, "2 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_ages(seconds: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert age(int((2_000_000_000 - seconds) * 1e9)) == text


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1_700_000_000_500_000_000
    assert (iso_time(moment), iso_time(0)) == ("2023-11-14T22:13:20.5Z", "0001-01-01T00:00:00Z")
    assert plain_time(moment) == "2023-11-14 22:13:20.5 +0000 UTC"
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert local_time(moment) == "2023-11-15T03:43:20+05:30"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_documents() -> None:
    assert json_text({"a": "<&>ä", "b": []}, None) == '{"a":"\\u003c\\u0026\\u003eä","b":[]}'
    assert json_text({"a": 1}) == '{\n    "a": 1\n}'
    assert label_text({"b": "2", "a": "1"}) == "a=1,b=2"
    assert (label_text({}), label_text({}, "")) == ("-", "")


def test_mounts_and_mappings() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,options=rbind:ro") == {
        "type": "bind", "source": "/a", "destination": "/b", "options": ["rbind", "ro"]}  # fmt: skip
    assert parse_mount('"src=/a,b",destination=/c') == {"source": "/a,b", "destination": "/c"}
    assert id_map(["0:1000:5"]) == [{"containerID": 0, "hostID": 1000, "size": 5}]
    for text in ("", "a", "colour=blue"):
        with pytest.raises(InvalidArgument):
            parse_mount(text or "nonsense")
    for text in ("0:1", "a:b:c", "0:1:-2", "0:1:4294967296", "0:1:2:3"):
        with pytest.raises(InvalidArgument):
            id_map([text])
