from __future__ import annotations

from portside.supervisor.deadlines import Deadlines


def test_what_a_configuration_says() -> None:
    said = {"io.containerd.timeout.shim.load": 7.0, "io.containerd.timeout.task.state": 0.5, "shim.shutdown": 3.0}
    assert Deadlines.from_timeouts(said) == Deadlines(load=7.0, state=0.5)
    assert Deadlines.from_timeouts({"io.containerd.timeout.shim.shutdown": -1.0}) == Deadlines()
