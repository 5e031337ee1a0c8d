import os
import socket

import pytest

from portside.linux import netns
from portside.linux.namespaces import CLONE_NEWNET, unshare
from tests.support.children import in_child


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_loopback_answers_once_it_is_up():
    def work():
        unshare(CLONE_NEWNET)
        with socket.create_server(("0.0.0.0", 0)) as server:
            port = server.getsockname()[1]
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except OSError:
                netns.loopback_up()
                netns.loopback_up()
                socket.create_connection(("127.0.0.1", port), 5).close()
                return "up"
            return "was up"

    assert in_child(work) == "up"
