import logging
from dataclasses import dataclass

import pytest

from portside.core.durations import Seconds
from portside.core.plugin import Plugin, SkipPlugin
from portside.engine.graph import PluginGraph, check_required, order
from portside.errors import FailedPrecondition, NotFound

A, B, C = "test.a.v1", "test.b.v1", "test.c.v1"


def raising(error):
    def build(init):
        raise error

    return build


@pytest.fixture
def graph(tmp_path):
    return PluginGraph(tmp_path / "root", tmp_path / "state", {f"{A}.one": {"word": "w", "pause": "1m30s"}})


def shown(graph):
    return {f"{plugin.type}.{plugin.id}": (plugin.error, plugin.skipped) for plugin in graph.status}


def names(plugins):
    return [plugin.id for plugin, _ in order(plugins)]


def row(type, id, *requires, build=lambda init: init, **more):
    return Plugin(type, id, build, requires=requires, **more)


def test_requirements_come_first_and_the_rest_stays_as_given():
    rows = [row(C, "last", A, B), row(B, "two", f"{A}.one"), row(A, "zero"), row(A, "one")]
    assert names(rows) == ["zero", "one", "two", "last"]


def test_after_is_no_requirement(graph):
    graph.build([row(B, "b", after=(A, "test.no.v1")), row(A, "one")])
    assert [plugin.id for plugin in graph.status] == ["one", "b"]
    assert not any(plugin.error for plugin in graph.status)


def test_what_a_builder_gets(graph, tmp_path):
    @dataclass(frozen=True)
    class Settings:
        word: str = ""
        pause: Seconds = 1.0
        other: int = 3

    graph.build([row(A, "one", config=Settings), row(B, "two", A), row(C, "no-table", config=Settings)])
    init = graph.get(A)
    assert init.settings == Settings("w", 90.0) and init.config == {"word": "w", "pause": "1m30s"}
    assert init.root == tmp_path / "root" / f"{A}.one" and init.state == tmp_path / "state" / f"{A}.one"
    assert graph.get(B).get(A) is init and graph.get(B).all(A) == {"one": init} and graph.get(B).settings is None
    assert graph.get(f"{A}.one") is init
    assert graph.get(C).settings == Settings() and graph.get(C).config == {}


def test_a_table_of_the_wrong_type_fails_its_plugin_alone(graph):
    @dataclass(frozen=True)
    class Settings:
        word: int = 0

    graph.build([row(A, "one", config=Settings), row(B, "two")])
    assert shown(graph) == {
        f"{A}.one": (f"plugins.'{A}.one'.word: want a whole number, not 'w'", False),
        f"{B}.two": ("", False),
    }


def test_failures_stay_with_those_who_need_them(graph, caplog):
    caplog.set_level(logging.INFO)
    graph.build(
        [
            row(A, "error", build=raising(NotFound("no device"))),
            row(A, "skip", build=raising(SkipPlugin("no kernel support"))),
            row(A, "defect", build=raising(ZeroDivisionError("division by zero"))),
            row(B, "needs-one", f"{A}.error"),
            row(B, "needs-type", A),
            row(C, "needs-missing", "test.no.v1"),
            row(C, "well"),
        ]
    )
    assert shown(graph) == {
        f"{A}.error": ("no device", False),
        f"{A}.skip": ("no kernel support", True),
        f"{A}.defect": ("ZeroDivisionError: division by zero", False),
        f"{C}.needs-missing": ("requires test.no.v1: not registered", False),
        f"{C}.well": ("", False),
        f"{B}.needs-one": (f"requires {A}.error: error: no device", False),
        f"{B}.needs-type": (
            f"requires {A}: error: no device; skip: no kernel support; defect: ZeroDivisionError: division by zero",
            False,
        ),
    }
    assert "ZeroDivisionError" in caplog.text and "plugin test.a.v1.skip skipped" in caplog.text
    with pytest.raises(FailedPrecondition, match=r"plugin test\.a\.v1: error: no device; skip"):
        graph.get(A)


def test_one_of_a_type_is_enough(graph):
    graph.build([row(A, "error", build=raising(OSError(5, "Input/output error"))), row(A, "one"), row(B, "b", A)])
    assert graph.get(B) and list(graph.all(A)) == ["one"]


def test_exports_that_fail_are_a_failure(graph):
    graph.build([Plugin(A, "one", lambda init: init, exports=raising(KeyError("root")))])
    assert shown(graph)[f"{A}.one"] == ("KeyError: 'root'", False) and graph.all(A) == {}


def test_disabled_plugins_are_not_there(graph):
    graph.build([row(A, "one"), row(B, "two", A)], disabled=[f"{A}.one", "test.unknown.v1.x"])
    assert shown(graph) == {f"{B}.two": (f"requires {A}: {A}.one is disabled", False)}


def test_a_circle_is_named_and_given_up_at_its_last_plugin(graph):
    graph.build([row(A, "well"), row(B, "first", f"{C}.second"), row(C, "second", f"{A}.third"), row(A, "third", B)])
    circle = f"plugins require each other: {A}.third → {B}.first → {C}.second → {A}.third"
    assert shown(graph) == {
        f"{A}.well": ("", False),
        f"{A}.third": (circle, False),
        f"{C}.second": (f"requires {A}.third: third: {circle}", False),
        f"{B}.first": (f"requires {C}.second: second: requires {A}.third: third: {circle}", False),
    }


def test_a_newcomer_in_a_circle_does_not_take_down_what_was_there(graph):
    graph.build([row(A, "ours"), row(B, "ours", A), row(A, "theirs", B)])
    assert [id for id, (error, _) in shown(graph).items() if not error] == [f"{A}.ours", f"{B}.ours"]
    assert "require each other" in shown(graph)[f"{A}.theirs"][0]


def test_a_plugin_that_requires_its_own_type_comes_after_the_others(graph):
    graph.build([row(A, "two", A), row(A, "one")])
    assert [(plugin.id, plugin.error) for plugin in graph.status] == [("one", ""), ("two", "")]


def test_the_first_of_two_with_one_name_is_used(graph, caplog):
    graph.build([row(A, "one", build=lambda init: 1), row(A, "one", build=lambda init: 2)])
    assert graph.get(A) == 1 and len(graph.status) == 1 and "registered twice" in caplog.text


def test_required_plugins(graph):
    rows = [row(A, "one"), row(B, "skip", build=raising(SkipPlugin("not here"))), row(C, "off")]
    graph.build(rows, required=[f"{A}.one"])
    check_required([f"{A}.one"], graph.status)
    for uri, reason in ((f"{B}.skip", "not here"), (f"{C}.off", "disabled"), (f"{C}.none", "not registered")):
        with pytest.raises(FailedPrecondition, match=f"required plugin {uri}: {reason}"):
            check_required([f"{A}.one", uri], graph.status, [f"{C}.off"])
