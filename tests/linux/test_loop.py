"""Loop devices: attached, asked, freed."""

import os

import pytest

from portside.linux import loop
from tests.support.peers import wait_for

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"), reason="needs root and loop devices"
)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    return path


def inode(path):
    return os.stat(path).st_ino


def test_a_device_goes_with_its_last_user(image):
    device, fd = loop.attach(str(image), loop.LO_FLAGS_AUTOCLEAR | loop.LO_FLAGS_READ_ONLY)
    owner = loop.backing(device)
    assert owner is not None and owner[1] == inode(image)
    with pytest.raises(OSError):
        os.write(fd, b"x")
    os.close(fd)
    wait_for(lambda: loop.backing(device) != owner, "its last user to be gone: udev may look at it, too")


def test_a_device_that_is_kept_until_it_is_freed(image):
    device, fd = loop.attach(str(image), loop.LO_FLAGS_AUTOCLEAR)
    owner = loop.backing(device)
    loop.keep(fd)
    os.close(fd)
    assert loop.backing(device) == owner
    loop.detach(device, (owner[0], owner[1] + 1))
    assert loop.backing(device) == owner
    loop.detach(device, owner)
    wait_for(lambda: loop.backing(device) != owner, "its last user to be gone")
    loop.detach(device, owner)


def test_what_cannot_be_attached(tmp_path):
    with pytest.raises(FileNotFoundError):
        loop.attach(str(tmp_path / "missing"))
    with pytest.raises(OSError):
        loop.attach(str(tmp_path))
    assert loop.backing("/dev/loop-that-is-not-there") is None
    loop.detach("/dev/loop-that-is-not-there", (1, 2))
