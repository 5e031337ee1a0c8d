"""The codec against protobuf itself: the same values are the same bytes, whatever the message, and both ways."""

from __future__ import annotations

import importlib
import math
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from portside.errors import InvalidArgument
from portside.wire import codec, pb, tables
from portside.wire.codec import Table, decode, encode
from portside.wire.pool import POOL
from portside.wire.tables import containerd_services_containers_v1 as containers
from portside.wire.tables import containerd_task, google_protobuf, io_containerd_cgroups_v1, ttrpc

for _module in pkgutil.walk_packages(pb.__path__, "portside.wire.pb."):
    importlib.import_module(_module.name)
ALL = {
    table.name: table
    for module in pkgutil.iter_modules(tables.__path__)
    for table in vars(importlib.import_module(f"portside.wire.tables.{module.name}")).values()
    if isinstance(table, Table) and not table.name.endswith("Entry")
}
KINDS = Table(
    "Kinds",
    tuple((number, kind, kind, "", None) for number, kind in enumerate(codec._KINDS, 1) if kind != "message")
    + tuple(
        (number, f"packed_{kind}", kind, "packed", None)
        for number, kind in enumerate(codec._KINDS, 30)
        if codec._KINDS[kind][0] != 2
    ),
)

SCALARS = {
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "bytes": st.binary(max_size=200),
    "bool": st.booleans(),
    "enum": st.integers(-(1 << 31), (1 << 31) - 1),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
    "sint32": st.integers(-(1 << 31), (1 << 31) - 1),
    "sint64": st.integers(-(1 << 63), (1 << 63) - 1),
    "fixed32": st.integers(0, (1 << 32) - 1),
    "fixed64": st.integers(0, (1 << 64) - 1),
    "sfixed32": st.integers(-(1 << 31), (1 << 31) - 1),
    "sfixed64": st.integers(-(1 << 63), (1 << 63) - 1),
    "float": st.floats(width=32, allow_nan=False).filter(lambda number: math.copysign(1, number) > 0 or number),
    "double": st.floats(allow_nan=False).filter(lambda number: math.copysign(1, number) > 0 or number),
}


def values_of(table: Table, entries: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """Any dictionary that is a message of ``table``, with up to ``entries`` entries in each map."""
    fields = {}
    for _, name, kind, label, sub in table.rows:
        if label == "map":
            assert sub is not None
            (_, _, key, _, _), (_, _, value_kind, _, value_table) = sub.rows
            value = (
                SCALARS[value_kind]
                if value_table is None
                else st.deferred(lambda table=value_table: values_of(table, entries))
            )
            fields[name] = st.dictionaries(SCALARS[key], value, max_size=entries)
            continue
        item = SCALARS[kind] if sub is None else st.deferred(lambda table=sub: values_of(table, entries))
        fields[name] = st.lists(item, max_size=3) if label in ("repeated", "packed") else item
    return st.fixed_dictionaries({}, optional=fields)


def fill(message: Any, table: Table, value: dict[str, Any]) -> Any:
    """Put ``value`` into a message of protobuf."""
    for _, name, _, label, sub in table.rows:
        if name not in value:
            continue
        item = value[name]
        if label == "map" and sub.rows[1][4] is not None:
            for key, entry in item.items():
                fill(getattr(message, name)[key], sub.rows[1][4], entry)
        elif label == "map":
            getattr(message, name).update(item)
        elif label == "repeated" and sub is not None:
            for entry in item:
                fill(getattr(message, name).add(), sub, entry)
        elif label in ("repeated", "packed"):
            getattr(message, name).extend(item)
        elif sub is not None:
            getattr(message, name).SetInParent()
            fill(getattr(message, name), sub, item)
        else:
            setattr(message, name, item)
    return message


def reads_as(message: Any, value: Any) -> bool:
    """Whether a decoded message has what ``value`` has, and defaults elsewhere."""
    return all(
        same(message[name], value[name]) if name in value else not message[name] and name not in message
        for _, name, _, _, _ in message.table.rows
    )


def same(found: Any, wanted: Any) -> bool:
    if isinstance(found, codec.Message):
        return reads_as(found, wanted)
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(found, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


def test_every_message_of_the_tables_is_protobufs() -> None:
    assert len(ALL) > 200
    for name, table in ALL.items():
        fields = POOL.FindMessageTypeByName(name).fields
        assert sorted((field.number, field.name) for field in fields) == sorted(row[:2] for row in table.rows)


@given(st.data())
def test_the_same_bytes_as_protobuf_both_ways(data: st.DataObject) -> None:
    table = ALL[data.draw(st.sampled_from(sorted(ALL)))]
    value = data.draw(values_of(table, entries=1))  # the order of a map's entries is anybody's choice
    theirs = fill(GetMessageClass(POOL.FindMessageTypeByName(table.name))(), table, value)
    ours = encode(table, value)
    assert ours == theirs.SerializeToString(deterministic=True)
    assert reads_as(decode(table, ours), value)


@given(st.data(), st.binary(max_size=60))
def test_accepts_what_protobuf_accepts_and_refuses_the_rest(data: st.DataObject, noise: bytes) -> None:
    table = ALL[data.draw(st.sampled_from(sorted(ALL)))]
    raw = encode(table, data.draw(values_of(table)))
    cut = data.draw(st.integers(0, len(raw)))
    raw = raw[:cut] + noise + raw[data.draw(st.integers(cut, len(raw))) :]
    kind = GetMessageClass(POOL.FindMessageTypeByName(table.name))
    try:
        theirs = kind.FromString(raw)
    except Exception:
        with pytest.raises(InvalidArgument):
            decode(table, raw)
    else:
        theirs.DiscardUnknownFields()
        ours = decode(table, raw)
        assert kind.FromString(encode(table, ours)) == theirs or "nan" in str(theirs) or "-0" in str(theirs)


@given(values_of(KINDS))
def test_every_kind_of_scalar_comes_back(value: dict[str, Any]) -> None:
    assert reads_as(decode(KINDS, encode(KINDS, value)), value)


def test_every_kind_of_scalar_has_protobufs_bytes() -> None:
    from google.protobuf import wrappers_pb2 as wrappers

    for kind, wrapper, value in [
        ("int64", wrappers.Int64Value, -1), ("uint64", wrappers.UInt64Value, (1 << 64) - 1),
        ("int32", wrappers.Int32Value, -5),
        ("double", wrappers.DoubleValue, 2.5), ("float", wrappers.FloatValue, -0.5), ("bool", wrappers.BoolValue, True),
    ]:  # fmt: skip
        assert (
            encode(Table("Wrapper", ((1, "value", kind, "", None),)), {"value": value})
            == wrapper(value=value).SerializeToString()
        )
    assert encode(
        Table("Z", ((1, "a", "sint32", "", None), (2, "b", "sint64", "", None))), {"a": -2, "b": 1 << 62}
    ) == (b"\x08\x03\x10" + b"\x80" * 9 + b"\x01")


def test_absent_fields_read_as_defaults_and_unknown_names_do_not() -> None:
    message = decode(containers.Container, b"")
    assert (message["id"], message["labels"], message["spec"], message.get("id")) == ("", {}, None, None)
    message["labels"]["lost"] = "a default is not stored"
    assert message["labels"] == {} and "labels" not in message
    with pytest.raises(KeyError):
        message["no_such_field"]


def test_an_unpacked_field_reads_as_packed() -> None:
    assert decode(io_containerd_cgroups_v1.CPUUsage, b"\x20\x01\x20\x02\x22\x02\x03\x04")["per_cpu"] == [1, 2, 3, 4]


def test_a_second_message_is_merged_into_the_first() -> None:
    raw = b"\x1a\x04\x12\x02ab" + b"\x1a\x03\x0a\x01x"
    assert decode(containerd_task.UpdateTaskRequest, raw)["annotations"] == {"": "ab", "x": ""}
    raw = b"\x12\x03\x0a\x01t" + b"\x12\x03\x12\x01v"
    assert decode(containerd_task.UpdateTaskRequest, raw)["resources"] == {"type_url": "t", "value": b"v"}


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0a", b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x02\xff\xfe",
        b"\x0a\x03\xed\xa0\x80",
        b"\x02\x00", b"\x00\x00", b"\x0c", b"\x0f\x00", b"\x08" + b"\xff" * 10 + b"\x01", b"\xff" * 9 + b"\x01\x00",
        b"\x1b", b"\x1b\x24", b"\x09\x00", b"\x0d\x00\x00", b"\x1b" * 200 + b"\x1c" * 200, b"\x08\x80",
        b"\x80\x80\x80\x80\x10\x00", b"\x52\x05\x0a\x04abc",
    ],
)  # fmt: skip
def test_malformed_messages_are_invalid(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"containerd\.task\.v2\.CreateTaskRequest"):
        decode(containerd_task.CreateTaskRequest, raw)


@pytest.mark.parametrize(
    "raw",
    [b"\x9a\x06\x02zz", b"\x98\x06\x01", b"\x9b\x06\x08\x01\x12\x01x\x9c\x06", b"\x08\x01", b"\x99\x06" + bytes(8)],
)
def test_unknown_fields_and_groups_are_skipped(raw: bytes) -> None:
    assert decode(containerd_task.StartRequest, raw + b"\x0a\x01i") == {"id": "i"}


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = Table("Nested", ())
    nested.rows = ((1, "inner", "message", "", nested),)
    deep: dict[str, Any] = {}
    for _ in range(codec.MAX_DEPTH):
        deep = {"inner": deep}
    with pytest.raises(InvalidArgument, match="deep"):
        encode(nested, deep)
    raw = b""
    for _ in range(codec.MAX_DEPTH):
        raw = b"\x0a" + codec.varint(len(raw)) + raw
    with pytest.raises(InvalidArgument, match="deep"):
        decode(nested, raw)
    monkeypatch.setattr(codec, "MAX_SIZE", 10)
    with pytest.raises(InvalidArgument, match="11 bytes"):
        decode(nested, bytes(11))
    monkeypatch.setattr(codec, "MAX_SIZE", 100)
    monkeypatch.setattr(codec, "MAX_ITEMS", 3)
    for table, field in [
        (io_containerd_cgroups_v1.CPUUsage, b"\x20\x01"),
        (io_containerd_cgroups_v1.Metrics, b"\x0a\x00"),
        (google_protobuf.FieldMask, b"\x0a\x01p"),
    ]:
        decode(table, field * 3)
        with pytest.raises(InvalidArgument, match="more than 3"):
            decode(table, field * 4)
    with pytest.raises(InvalidArgument, match="more than 3"):
        decode(containers.Container, b"".join(b"\x12\x03\x0a\x01" + b"%d" % n for n in range(4)))


@pytest.mark.parametrize(
    ("table", "value"),
    [
        (ttrpc.Request, {"service": 5}), (ttrpc.Request, {"payload": "text"}),
        (ttrpc.Request, {"timeout_nano": 1 << 63}),
        (ttrpc.Request, {"service": "\ud800"}), (ttrpc.Request, {"metadata": 7}),
        (google_protobuf.Timestamp, {"nanos": 1 << 31}),
        (containerd_task.KillRequest, {"signal": -1}), (ttrpc.Request, {"metadata": [None]}),
        (ttrpc.Request, {"payload": 5}),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_invalid(table: Table, value: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(value))):
        encode(table, value)


def test_a_misspelt_field_is_our_mistake() -> None:
    with pytest.raises(KeyError, match="sevrice"):
        encode(ttrpc.Request, {"sevrice": "x"})


def test_both_task_services_share_their_messages() -> None:
    v2, v3 = (containerd_task.SERVICES[f"containerd.task.{version}.Task"] for version in ("v2", "v3"))
    assert v2 == v3
    assert v2["Create"] == (containerd_task.CreateTaskRequest, containerd_task.CreateTaskResponse, False, False)


def test_prepare_reaches_sub_messages() -> None:
    containers.CreateContainerRequest.prepare()
    assert google_protobuf.Any._decoders is not None


def test_light() -> None:
    """What a shim imports brings nothing heavy along."""
    code = (
        "before = set(sys.modules); import portside.wire.tables.containerd_task, portside.wire.tables.ttrpc;"
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('portside')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(loaded.stdout.split()) <= {"_struct", "struct", "errno", "__future__"}
