"""Descriptors with an owner."""

from __future__ import annotations

import os

import pytest

from portside.linux.fd import OwnedFd, pipe


def test_closing() -> None:
    fd = OwnedFd(os.open("/", os.O_RDONLY))
    number = fd.fileno()
    fd.close()
    assert fd.closed
    with pytest.raises(OSError):
        os.fstat(number)
    fd.close()
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()


def test_giving_away() -> None:
    with OwnedFd(os.open("/", os.O_RDONLY)) as fd:
        number = fd.detach()
    os.fstat(number)
    os.close(number)
    with pytest.raises(ValueError, match="closed"):
        fd.detach()


def test_duplicates_are_independent_and_close_on_exec() -> None:
    with OwnedFd(os.open("/etc", os.O_RDONLY)) as fd, fd.duplicate() as other:
        assert other.fileno() != fd.fileno()
        assert not os.get_inheritable(other.fileno())
        fd.close()
        assert os.readlink(f"/proc/self/fd/{other.fileno()}") == "/etc"


def test_pipes() -> None:
    reader, writer = pipe()
    with reader:
        with writer:
            os.write(writer.fileno(), b"x")
        assert os.read(reader.fileno(), 2) == b"x"
        assert os.read(reader.fileno(), 2) == b""
