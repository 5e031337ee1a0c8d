"""Metrics as text, read back by Prometheus' own parsers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from portside.daemon.exposition import Exposition, Histogram, label_text, number, wants_openmetrics


def parsed(out: Exposition, openmetrics: bool) -> dict[str, object]:
    text = b"".join(out.pieces()).decode()
    return {family.name: family for family in (parse_openmetrics if openmetrics else parse_text)(text)}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_all_kinds(openmetrics: bool) -> None:
    out = Exposition(openmetrics)
    out.counter("calls", "How many.", 3, label_text({"code": "OK"}))
    out.gauge("room_bytes", "In bytes.", 1.5)
    out.counter("calls", "How many.", 4, label_text({"code": "Unknown"}))
    seconds = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        seconds.observe(value)
    out.histogram("took_seconds", "How long.", seconds, label_text({"method": "Get"}))
    families = parsed(out, openmetrics)
    assert list(families) == ["calls", "room_bytes", "took_seconds"]
    calls = families["calls"]
    assert (calls.type, calls.documentation) == ("counter", "How many.")
    assert [(sample.name, sample.labels, sample.value) for sample in calls.samples] == [
        ("calls_total", {"code": "OK"}, 3),
        ("calls_total", {"code": "Unknown"}, 4),
    ]
    buckets = [sample for sample in families["took_seconds"].samples if sample.name.endswith("_bucket")]
    assert [(float(sample.labels["le"]), sample.value) for sample in buckets] == [(0.1, 2), (1.0, 3), (math.inf, 4)]
    assert {sample.value for sample in families["took_seconds"].samples if sample.name.endswith("_sum")} == {7.65}


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40), st.floats(), st.booleans())
def test_odd_text_and_odd_numbers(text: str, value: float, openmetrics: bool) -> None:
    if "\r" in text or any(text.splitlines() != text.split("\n") for _ in "x"):
        return  # the parsers split at more than a newline; the format does not
    out = Exposition(openmetrics)
    out.gauge("g", text.strip(), value, label_text({"l": text}))
    (family,) = parsed(out, openmetrics).values()
    (sample,) = family.samples
    assert sample.labels == {"l": text}
    assert sample.value == value or (math.isnan(sample.value) and math.isnan(value))


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (2**63, "9223372036854775808"), (0.1, "0.1"), (3.0, "3")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", True),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=odd", False),
    ],
)
def test_what_is_asked_for(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
