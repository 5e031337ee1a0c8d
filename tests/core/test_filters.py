"""What our records show to filters."""

from portside.core.content import ContentInfo, IngestStatus
from portside.core.filters import content_fields, ingest_fields, snapshot_fields
from portside.core.snapshots import Kind, SnapshotInfo
from portside.oci.digest import Digest


def test_fields_of_our_records():
    digest = Digest.of(b"")
    info = content_fields(ContentInfo(digest, 3, {"k": "v"}))
    assert [info(path) for path in (("digest",), ("labels", "k"), ("size",), ())] == [digest, "v", None, None]
    assert ingest_fields(IngestStatus("r", 0, 0, "", 0, 0))(("ref",)) == "r"
    snapshot = snapshot_fields(SnapshotInfo("n", "", Kind.VIEW))
    assert [snapshot(path) for path in (("kind",), ("name",), ("parent",))] == ["view", "n", None]
