"""The directories of tasks: what a crash or a reboot leaves of them."""

import os

from portside.supervisor.bundles import Bundles


def test_a_work_directory_that_has_lost_its_bundle_goes_if_it_is_empty(tmp_path):
    bundles = Bundles(str(tmp_path / "state"), str(tmp_path / "root"))
    bundles.prepare()
    made = []
    for id in ("kept", "empty", "full"):
        bundle, listener, _ = bundles.create("ns", id, b"{}")
        listener.close()
        made.append(bundle)
    kept, empty, full = made
    (tmp_path / "log").write_text("of a runtime")
    os.rename(tmp_path / "log", f"{full.work}/log")
    for bundle in (empty, full):  # as a crash in the middle of a removal leaves them
        os.rename(bundle.path, f"{os.path.dirname(bundle.path)}/.gone-{bundle.id}")
    assert [bundle.id for bundle in bundles.list()] == ["kept"]
    assert sorted(os.listdir(os.path.dirname(kept.work))) == ["full", "kept"]
    assert os.listdir(os.path.dirname(kept.path)) == ["kept"]
    bundles.remove(kept)
