"""Declaring bounds: the builder, and the registry that keeps what it was told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from memquota import UsageError, UsageTypeError, UsageValueError
from memquota.accounting import (
    Bounded,
    Bounds,
    BoundsBuilder,
    Component,
    ComponentRegistry,
    Constant,
    Group,
    Product,
    Setting,
    Sum,
)


class Cache:
    """The shortest thing that is Bounded."""

    def __init__(self, index: int | str = "1MiB", entries: int = 10) -> None:
        self.index = index
        self.entries = entries

    def specify_bounds(self, builder: BoundsBuilder) -> None:
        builder.minimum.constant("index", self.index)
        builder.firm.above_minimum(Setting("entries", self.entries) * Constant(8, "entry"))


def declared(registry: ComponentRegistry) -> dict[str, tuple[int, int] | None]:
    """Own bounds of every component, in bytes."""
    return {
        one.name: None if one.bounds is None else (one.bounds.minimum.value, one.bounds.firm.value)
        for one in registry.declared().walk()
        if one.name
    }


def told(specification: Callable[[BoundsBuilder], object]) -> Bounds | None:
    registry = ComponentRegistry()
    registry.component("x").declare(specification)
    return registry.component("x").bounds


# --- the builder ------------------------------------------------------------------------------------------------------


def test_what_is_told_adds_up_and_keeps_its_story() -> None:
    bounds = told(
        lambda builder: (
            builder.minimum.constant("table", "1KiB").setting("buffer", 10).size_of(b"", "empty").add(3, "1KiB"),
            builder.firm.add("1MiB"),
        )
    )

    assert bounds is not None
    assert str(bounds.minimum) == "table=1_024 + buffer=10 + sizeof(empty)=33 + 3 + 1_024"
    assert bounds.minimum.value == 1024 + 10 + 33 + 3 + 1024
    assert bounds.firm == Constant("1MiB")


def test_a_firm_limit_is_a_total_unless_it_is_told_as_above_the_minimum_in_whatever_order() -> None:
    total = told(lambda builder: (builder.minimum.add(5), builder.firm.add(100)))
    above = told(lambda builder: (builder.firm.above_minimum(100).add(7), builder.minimum.add(5).add(6)))
    nothing_above = told(lambda builder: (builder.firm.above_minimum(), builder.minimum.add(5)))
    above_nothing = told(lambda builder: builder.firm.above_minimum(100))

    assert total == Bounds(5, 100)
    assert above == Bounds(Sum(5, 6), Sum(5, 6, 100, 7))
    assert nothing_above == Bounds(5, 5)
    assert above_nothing == Bounds(0, 100)


def test_without_a_firm_limit_it_is_the_minimum_and_who_tells_nothing_has_no_bounds() -> None:
    assert told(lambda builder: builder.minimum.add(5)) == Bounds(5, 5)
    assert told(lambda builder: builder.firm.add(5)) == Bounds(0, 5)
    assert told(lambda builder: None) is None
    assert Bounds(5) == Bounds(5, 5)
    assert Bounds("1KiB", Setting("cache", 2048)).firm == Setting("cache", 2048)


def test_a_builder_has_components_below_it() -> None:
    def specify(builder: BoundsBuilder) -> None:
        assert builder.name == "pipeline"
        builder.component("reader", Cache(index=5))
        builder.component("sinks.file").minimum.add(7)
        assert builder.component("sinks.file") is builder.component("sinks").component("file")
        assert builder.component("sinks.file").name == "pipeline.sinks.file"
        builder.component("sinks.socket", lambda below: below.component("tls", Bounds(9)))

    registry = ComponentRegistry()
    registry.component("pipeline").declare(specify)

    assert declared(registry) == {
        "pipeline": None,
        "pipeline.reader": (5, 85),
        "pipeline.sinks": None,
        "pipeline.sinks.file": (7, 7),
        "pipeline.sinks.socket": None,
        "pipeline.sinks.socket.tls": (9, 9),
    }


@pytest.mark.parametrize("first", ["minimum", "firm", "component", "specification"])
def test_one_component_is_not_specified_twice(first: str) -> None:
    def specify(builder: BoundsBuilder) -> None:
        if first == "specification":
            builder.component("cache", Cache())
        elif first == "component":
            builder.component("cache").component("below")
        else:
            getattr(builder.component("cache"), first).add(1)
        builder.component("cache", Cache())

    with pytest.raises(UsageValueError, match=r"component 'x.cache' is specified twice"):
        told(specify)


def test_after_the_declaration_the_builder_takes_no_more() -> None:
    kept: list[BoundsBuilder] = []
    told(kept.append)

    for late in (
        lambda: kept[0].minimum.add(1),
        lambda: kept[0].firm.above_minimum(1),
        lambda: kept[0].component("below"),
    ):
        with pytest.raises(UsageError, match="built already"):
            late()


def test_a_specification_that_contains_itself_ends() -> None:
    class Endless:
        def specify_bounds(self, builder: BoundsBuilder) -> None:
            builder.component("again", self)

    with pytest.raises(UsageValueError, match="at most 64 parts, not 65"):
        told(Endless().specify_bounds)


def test_bounds_are_the_same_again_after_json() -> None:
    bounds = Bounds(Sum("1MiB", Setting("a", 3)), Product(3, Setting("b", 2**40), name="most"))

    assert Bounds.from_dict(json.loads(json.dumps(bounds.as_dict()))) == bounds
    nonsense: list[Any] = [{}, {"minimum": bounds.minimum.as_dict()}, [], None]
    for one in nonsense:
        with pytest.raises(UsageTypeError, match="bounds read back need 'minimum' and 'firm'"):
            Bounds.from_dict(one)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_component_is_there_as_soon_as_it_is_asked_for_with_all_that_it_is_below() -> None:
    registry = ComponentRegistry()
    handle = registry.component("topology.sources.http")

    assert declared(registry) == {"topology": None, "topology.sources": None, "topology.sources.http": None}
    assert handle == registry.component("topology").component("sources").component("http")
    assert handle == registry.component("topology").component("sources.http")
    assert handle != ComponentRegistry().component("topology.sources.http")
    assert len({handle, registry.component("topology.sources.http")}) == 1
    assert (handle.name, repr(handle)) == ("topology.sources.http", "<Component 'topology.sources.http'>")


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", " a", "a. b", "a\n", "a\0b", "a.b\u2028"])
def test_a_name_has_printable_parts(name: str) -> None:
    registry = ComponentRegistry()

    for ask in (registry.component, registry.component("x").component, BoundsBuilder().component):
        with pytest.raises(UsageValueError, match="printable parts with dots between"):
            ask(name)
    assert declared(registry) == {"x": None}


def test_other_names_are_refused() -> None:
    registry = ComponentRegistry()

    with pytest.raises(UsageTypeError, match="a component's name must be text, not 3"):
        registry.component(3)  # type: ignore[arg-type]
    with pytest.raises(UsageTypeError, match="must be text"):
        registry.component("x").component(None)  # type: ignore[arg-type]
    with pytest.raises(UsageValueError, match="at most 64 parts, not 65"):
        registry.component(".".join("a" * 65))
    assert registry.component(".".join("a" * 64)).name.count(".") == 63


def test_what_is_bounded_may_be_an_object_a_function_or_bounds() -> None:
    registry = ComponentRegistry()
    registry.component("object").declare(Cache(index=1))
    registry.component("method").declare(Cache(index=2).specify_bounds)
    registry.component("bounds").declare(Bounds(3, 4))

    assert isinstance(Cache(), Bounded)
    assert declared(registry) == {"object": (1, 81), "method": (2, 82), "bounds": (3, 4)}


@pytest.mark.parametrize("nonsense", [None, 5, "1MiB", Cache, object()])
def test_what_is_not_bounded_is_refused(nonsense: Any) -> None:
    registry = ComponentRegistry()
    component = registry.component("x")
    component.declare(Bounds(3))

    with pytest.raises(UsageTypeError, match="specify_bounds, a function or Bounds, not by"):
        component.declare(nonsense)
    with pytest.raises(UsageTypeError, match="specify_bounds, a function or Bounds, not by"):
        component.declare(lambda builder: builder.component("y", 0 if nonsense is None else nonsense))  # type: ignore[arg-type]
    assert declared(registry) == {"x": (3, 3)}


def test_a_specification_that_fails_changes_nothing() -> None:
    registry = ComponentRegistry()
    component = registry.component("x")
    component.declare(lambda builder: builder.component("below", Bounds(3)))

    def fail(builder: BoundsBuilder) -> None:
        builder.minimum.add(1)
        builder.component("other", Bounds(4))
        raise LookupError

    with pytest.raises(LookupError):
        component.declare(fail)
    assert declared(registry) == {"x": None, "x.below": (3, 3)}


def test_declaring_anew_forgets_all_that_the_same_component_told_before() -> None:
    registry = ComponentRegistry()
    component = registry.component("x")

    component.declare(lambda builder: (builder.minimum.add(1), builder.component("old.deep", Bounds(2))))
    component.declare(lambda builder: builder.component("new", Bounds(3)))

    assert component.bounds is None
    assert declared(registry) == {"x": None, "x.new": (3, 3)}


def test_declaring_anew_leaves_what_others_declared() -> None:
    registry = ComponentRegistry()
    component = registry.component("x")
    component.component("own.deep").declare(Bounds(5))
    component.declare(lambda builder: builder.component("told", Bounds(2)))
    component.component("told").declare(Bounds(7))

    component.declare(lambda builder: builder.component("own").component("beside", Bounds(1)))

    assert declared(registry) == {
        "x": None,
        "x.own": None,
        "x.own.deep": (5, 5),
        "x.own.beside": (1, 1),
        "x.told": (7, 7),
    }


def test_the_way_to_a_component_does_not_undeclare_what_stands_on_it() -> None:
    registry = ComponentRegistry()
    registry.component("x.own").declare(Bounds(5))

    registry.component("x").declare(lambda builder: builder.component("own.deep", Bounds(1)))

    assert declared(registry) == {"x": None, "x.own": (5, 5), "x.own.deep": (1, 1)}


def test_reset_forgets_and_handles_stay_good() -> None:
    registry = ComponentRegistry()
    first, second = registry.component("a.b"), registry.component("c")
    first.declare(Cache(index=1))
    second.declare(Bounds(3))

    first.reset()
    assert declared(registry) == {"c": (3, 3)}
    assert first.bounds is None
    first.reset()

    registry.reset()
    assert declared(registry) == {}
    first.declare(Bounds(7))
    assert declared(registry) == {"a": None, "a.b": (7, 7)}


def test_reset_keeps_components_that_have_a_group() -> None:
    registry = ComponentRegistry()
    group = registry.component("a.b").group
    registry.component("a.c").declare(Bounds(1))

    registry.reset()

    assert declared(registry) == {"a": None, "a.b": None}
    assert registry.component("a.b").group is group


def test_a_component_has_one_group_also_for_threads_that_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ComponentRegistry()
    both_make_one = threading.Barrier(2, timeout=60)

    def make(name: str) -> Group:
        both_make_one.wait()
        return Group(name)

    monkeypatch.setattr("memquota.accounting.registry.Group", make)
    found: list[Group] = []
    threads = [threading.Thread(target=lambda: found.append(registry.component("a").group)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found[0] is found[1] is registry.component("a").group
    assert found[0].name == "a"


def test_a_specification_may_use_the_registry() -> None:
    registry = ComponentRegistry()

    def specify(builder: BoundsBuilder) -> None:
        registry.component("other").declare(Bounds(2))
        builder.minimum.add(1)

    registry.component("x").declare(specify)

    assert declared(registry) == {"x": (1, 1), "other": (2, 2)}


def test_sums_and_whether_they_cover_everything() -> None:
    registry = ComponentRegistry()
    registry.component("a").declare(Bounds(1, 10))
    registry.component("a.b").declare(Bounds(2, 20))
    registry.component("a.undeclared")
    registry.component("covered.one").declare(Bounds(4, 40))
    registry.component("partly.one").declare(Bounds(8, 80))
    registry.component("partly.undeclared")

    found = {one.name: (one.minimum, one.firm, one.bounded) for one in registry.declared().walk()}

    assert found == {
        "": (15, 150, False),
        "a": (3, 30, True),  # who declares, declares for all below
        "a.b": (2, 20, True),
        "a.undeclared": (0, 0, False),
        "covered": (4, 40, True),
        "covered.one": (4, 40, True),
        "partly": (8, 80, False),
        "partly.one": (8, 80, True),
        "partly.undeclared": (0, 0, False),
    }
    assert registry.declared().as_dict()["components"][1] == {
        "name": "covered",
        "minimum": 4,
        "firm": 40,
        "bounded": True,
        "bounds": None,
        "components": [
            {
                "name": "covered.one",
                "minimum": 4,
                "firm": 40,
                "bounded": True,
                "bounds": Bounds(4, 40).as_dict(),
                "components": [],
            }
        ],
    }


def test_components_come_from_a_registry_only_by_name() -> None:
    registry = ComponentRegistry()

    assert isinstance(registry.component("a"), Component)
    with pytest.raises(AttributeError):
        registry.component("a").name = "b"  # type: ignore[misc]
