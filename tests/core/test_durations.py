import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.durations import format_duration, parse_duration
from portside.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("0s", 0), ("0", 0), ("2m", 120), ("1.5h", 5400), (2, 2), ("7us", 7e-6), ("4h0m0s", 14400),
     ("1m30s", 90), ("-2s", -2), (".5s", 0.5), ("+1µs", 1e-6)],
)  # fmt: skip
def test_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "3", "1 fortnight", "1s3", "1e3s", "nan", "inf", "-", ".s", True, None, [], 10**400, "9" * 63 + "h"],
)
def test_what_is_none(text):
    with pytest.raises(InvalidArgument, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.1, "100ms"), (90, "1m30s"), (14400, "4h0m0s"), (5, "5s"), (1.5, "1.5s"), (7e-6, "7µs"),
     (-60, "-1m0s"), (3e-9, "3ns"), (0.0000015, "1.5µs")],
)  # fmt: skip
def test_written_as_go_does(seconds, text):
    assert format_duration(seconds) == text


@given(st.integers(-(10**14), 10**14))
def test_what_is_written_reads_the_same(microseconds):
    assert parse_duration(format_duration(microseconds / 1e6)) == pytest.approx(microseconds / 1e6, rel=1e-12, abs=1e-8)
