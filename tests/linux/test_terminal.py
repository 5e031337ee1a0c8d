import os
import signal
import termios

import pytest

from portside.linux import terminal


@pytest.fixture
def pair():
    master = terminal.open_master()
    peer = terminal.open_peer(master)
    yield master, peer
    os.close(master)
    os.close(peer)


def test_a_pair_belongs_together(pair):
    master, peer = pair
    assert os.ttyname(peer) == f"/dev/pts/{terminal.number_of(master)}"
    os.write(peer, b"out\n")
    assert os.read(master, 100) == b"out\r\n"
    os.write(master, b"in\n")
    assert os.read(peer, 100) == b"in\n"


def test_no_descriptor_is_inherited(pair):
    assert not any(os.get_inheritable(fd) for fd in pair)


def test_size(pair):
    master, peer = pair
    assert terminal.size_of(peer) == (0, 0)
    terminal.resize(master, 80, 24)
    assert terminal.size_of(peer) == (80, 24)
    terminal.resize(master, 1 << 20, 1)
    assert terminal.size_of(peer) == (65535, 1)


def test_raw_mode_and_back(pair):
    master, peer = pair
    before = termios.tcgetattr(peer)
    with terminal.RawMode(peer) as raw:
        os.write(master, b"a\x03\x04\r")
        assert os.read(peer, 100) == b"a\x03\x04\r"
        os.write(peer, b"\n")
        assert os.read(master, 100) == b"\n"
        raw.restore()
        assert termios.tcgetattr(peer) == before
    assert termios.tcgetattr(peer) == before


def test_keep_newlines(pair):
    master, peer = pair
    terminal.keep_newlines(peer)
    os.write(peer, b"x\n")
    assert os.read(master, 100) == b"x\n"


def test_controlling_terminal(pair):
    master, peer = pair
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        terminal.make_controlling(peer)
        os.write(peer, b"ready")
        signal.pause()
    assert os.read(master, 100) == b"ready"
    os.write(master, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT


def test_another_file_in_the_place_of_ptmx(tmp_path):
    (tmp_path / "ptmx").symlink_to("/dev/null")
    with pytest.raises(OSError, match="5:2"):
        terminal.open_master(str(tmp_path / "ptmx"))
    (tmp_path / "plain").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="5:2"):
            terminal.open_master("plain", dir_fd=fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd", "/proc/self/status"])
def test_what_is_not_a_terminal(path):
    fd = os.open(path, os.O_PATH)
    try:
        with pytest.raises(OSError, match="not a terminal"):
            terminal.check_peer(fd)
    finally:
        os.close(fd)


def test_a_handle_on_a_terminal_passes(pair):
    fd = os.open(os.ttyname(pair[1]), os.O_PATH)
    try:
        terminal.check_peer(fd)
    finally:
        os.close(fd)
