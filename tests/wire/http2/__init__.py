"""Tests of wire/http2/."""
