"""What is shown of requests and answers, and what never is."""

from __future__ import annotations

from portside.registry.trace import answer_text, request_text


def test_what_is_secret_is_not_shown() -> None:
    headers = {"Accept": "*/*", "Authorization": "Bearer abc", "Cookie": "c=abc", "X-Registry-Auth": "abc"}
    text = request_text("GET", "https://user:abc@host.example:5000/v2/x/blobs/y?token=abc&sig=abc", headers)
    assert "abc" not in text
    assert text.splitlines() == [
        "> GET https://host.example:5000/v2/x/blobs/y?(not shown)", "> Accept: */*", "> Authorization: (not shown)",
        "> Cookie: (not shown)", "> X-Registry-Auth: (not shown)",
    ]  # fmt: skip


def test_an_answer_may_lead_to_a_signed_address() -> None:
    headers = {"Location": "https://cdn.example/blob?signature=abc", "Set-Cookie": "abc", "Content-Length": "5"}
    text = answer_text("GET", "http://host.example/v2/", 307, headers)
    assert "abc" not in text
    assert text.splitlines()[:2] == [
        "< 307 GET http://host.example/v2/",
        "< Location: https://cdn.example/blob?(not shown)",
    ]


def test_a_header_is_one_line_of_limited_length() -> None:
    text = answer_text("GET", "/v2/", 200, {"X-Odd": "a\r\n< 500 \x1b[2J" + "b" * 1000})
    assert len(text.splitlines()) == 2 and "\x1b" not in text and len(text) < 400
