import os

import pytest

from portside.daemon import config_files
from portside.daemon.config_files import merged, read, read_all
from portside.errors import InvalidArgument, NotFound


@pytest.fixture
def write(tmp_path):
    def write(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def names(path):
    return [str(source.path.relative_to(path.parent)) for source in read_all(path)]


def test_imports_are_followed_breadth_first(write):
    main = write("config.toml", 'version = 3\nimports = ["a.toml", "conf.d/*.toml", "none.d/*.toml"]')
    write("a.toml", 'imports = ["deep/x.toml"]')
    write("conf.d/2.toml")
    write("conf.d/1.toml", 'imports = ["./../deep/y.toml"]')
    write("conf.d/1.toml.bak", "not TOML")
    write("deep/x.toml")
    write("deep/y.toml", f'imports = ["{main.parent}/a.toml"]')
    assert names(main) == ["config.toml", "a.toml", "conf.d/1.toml", "conf.d/2.toml", "deep/x.toml", "deep/y.toml"]


def test_versions_may_differ(write):
    main = write("config.toml", 'version = 4\nimports = ["old.toml"]')
    write("old.toml", 'version = 2\n[grpc]\naddress = "/a"')
    assert merged(source.document for source in read_all(main))["plugins"] == {
        "io.containerd.server.v1.grpc": {"address": "/a"}
    }


def test_circles_are_refused(write):
    main = write("config.toml", 'imports = ["a.toml"]')
    a = write("a.toml", 'imports = ["b.toml"]')
    b = write("b.toml", 'imports = ["a.toml"]')
    with pytest.raises(InvalidArgument, match=f"configuration {b}: imports go in a circle: {a} → {b} → {a}"):
        read_all(main)
    main.write_text('imports = ["./b.toml"]')
    with pytest.raises(InvalidArgument, match=f"configuration {a}: imports go in a circle: {b} → {a} → {b}"):
        read_all(main)


def test_a_file_that_imports_itself_is_what_containerd_dumps(write):
    main = write("config.toml", 'imports = ["./config.toml", "other.toml"]')
    write("other.toml")
    assert names(main) == ["config.toml", "other.toml"]


def test_a_link_to_a_file_is_that_file(write, tmp_path):
    main = write("config.toml", 'imports = ["other.toml"]')
    write("other.toml", 'imports = ["link.toml"]')
    os.symlink(main, tmp_path / "link.toml")
    with pytest.raises(InvalidArgument, match="circle"):
        read_all(main)


def test_a_pattern_may_match_the_file_that_has_it(write):
    main = write("config.toml", 'imports = ["*.toml"]')
    write("other.toml")
    assert names(main) == ["config.toml", "other.toml"]


def test_a_missing_import_names_who_wants_it(write, tmp_path):
    main = write("config.toml", 'imports = ["gone.toml"]')
    with pytest.raises(NotFound, match=f"configuration {tmp_path}/gone.toml: no such file, imported by {main}"):
        read_all(main)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 9", "version 9: want 2, 3 or 4"),
        ("x = y", "at line 1"),
        ("x = 1\nx = 2", "overwrite"),
        ("imports = 1", "imports: want a list of paths"),
        ("imports = [1]", "imports: want a list of paths"),
        ('imports = ["a\\u0000b"]', "imports: want a list of paths"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a" + ".a" * 5000 + " = 1", "nested too deeply"),
        ("x = " + "9" * 5000, "digits"),
    ],
)
def test_what_cannot_be_read_names_the_file(write, text, reason):
    path = write("config.toml", text)
    with pytest.raises(InvalidArgument, match=f"configuration {path}: .*{reason}"):
        read_all(path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"x = '\xff'")
    with pytest.raises(InvalidArgument, match="utf-8"):
        read(tmp_path / "x")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        with pytest.raises(InvalidArgument, match="is not a file"):
            read(tmp_path / path)


def test_limits(write, monkeypatch):
    monkeypatch.setattr(config_files, "MAX_BYTES", 100)
    monkeypatch.setattr(config_files, "MAX_FILES", 3)
    monkeypatch.setattr(config_files, "MAX_DEPTH", 2)
    with pytest.raises(InvalidArgument, match="is longer than 100 bytes"):
        read(write("long.toml", "#" * 101))
    read(write("long.toml", "#" * 100))
    for number in range(4):
        write(f"many/{number}.toml")
        write(f"chain{number}.toml", f'imports = ["chain{number + 1}.toml"]')
    with pytest.raises(InvalidArgument, match="imports more than 3 files"):
        read_all(write("config.toml", 'imports = ["many/*.toml"]'))
    write("chain3.toml")
    assert len(read_all(write("config.toml", 'imports = ["chain2.toml"]'))) == 3
    with pytest.raises(InvalidArgument, match="more than 2 files deep"):
        read_all(write("config.toml", 'imports = ["chain1.toml"]'))


def test_merging_is_that_of_containerd():
    # The cases of containerd's own test (cmd/containerd/server/config: TestMergeConfigs).
    first = {
        "version": 4, "root": "old", "state": "old", "oom_score": 1, "required_plugins": ["io.old"],
        "disabled_plugins": ["io.old"], "timeouts": {"a": "1s"},
        "stream_processors": {"1": {"path": "2", "returns": "4"}, "2": {"path": "5"}},
    }  # fmt: skip
    second = {
        "version": 4, "root": "new", "oom_score": 0, "required_plugins": ["io.new1", "io.new2"],
        "disabled_plugins": ["io.old"], "timeouts": {"b": "2s"}, "stream_processors": {"1": {"path": "3"}},
    }  # fmt: skip
    assert merged([first, second]) == {
        "version": 4, "root": "new", "state": "old", "oom_score": 1, "disabled_plugins": ["io.old"],
        "required_plugins": ["io.old", "io.new1", "io.new2"], "timeouts": {"a": "1s", "b": "2s"},
        "stream_processors": {"1": {"path": "3"}, "2": {"path": "5"}},
    }  # fmt: skip


def test_tables_of_plugins_are_merged_all_the_way_down():
    first = {"plugins": {"a.b": {"x": {"y": {"one": 1, "both": 1}}, "list": [1], "on": True}, "a.c": {"k": 1}}}
    second = {"plugins": {"a.b": {"x": {"y": {"two": 2, "both": 2}}, "list": [2], "on": False}, "a.d": {}}}
    assert merged([first, second])["plugins"] == {
        "a.b": {"x": {"y": {"one": 1, "two": 2, "both": 2}}, "list": [2], "on": False},
        "a.c": {"k": 1},
        "a.d": {},
    }
    assert first["plugins"]["a.b"]["list"] == [1]


def test_empty_values_outside_of_plugins_are_not_set():
    assert merged([{"debug": {"level": "warn", "format": "json"}}, {"debug": {"level": "", "format": "text"}}]) == {
        "debug": {"level": "warn", "format": "text"}
    }
