"""With AppArmor where there is one; the checks on /proc everywhere."""

import os

import pytest

from portside.errors import InvalidArgument
from portside.linux import apparmor
from tests.support.children import in_child

on = pytest.mark.skipif(not apparmor.enabled() or os.geteuid() != 0, reason="needs root and AppArmor")


@pytest.fixture
def proc():
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_procfs_passes(proc):
    apparmor.check_proc(proc)


@pytest.mark.parametrize("path", ["/", "/proc/self", "/proc/sys", "/sys"])
def test_anything_else_is_refused(path):
    fd = os.open(path, os.O_PATH)
    try:
        with pytest.raises(OSError, match="procfs"):
            apparmor.set_exec_profile(fd, "some-profile")
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b"])
def test_names(proc, name):
    with pytest.raises(InvalidArgument):
        apparmor.set_exec_profile(proc, name)


@pytest.mark.skipif(apparmor.enabled(), reason="needs a kernel without AppArmor")
def test_without_apparmor_a_profile_is_an_error(proc):
    with pytest.raises(OSError, match="some-profile"):
        apparmor.set_exec_profile(proc, "some-profile")


@on
def test_an_unknown_profile_is_named(proc):
    with pytest.raises(OSError, match="nonesuch"):
        apparmor.set_exec_profile(proc, "portside-nonesuch")


@on
def test_unconfined_is_a_profile_too(proc):
    assert apparmor.profile_of() == "unconfined"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        apparmor.set_exec_profile(proc, apparmor.UNCONFINED)
        os.dup2(writer, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/attr/current"])
    os.close(writer)
    try:
        assert os.read(reader, 100).startswith(b"unconfined")
    finally:
        os.close(reader)
        os.waitpid(pid, 0)


def test_profile_of_a_process_without_apparmor():
    if not apparmor.enabled():
        assert apparmor.profile_of() == ""
        assert apparmor.loaded_profiles() == {}


def test_children_can_ask():
    assert in_child(apparmor.profile_of) == apparmor.profile_of()
