"""Verification: against a brute-force sum, exactly when it fits, and with every offender named."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import BoundsError, MemoryQuotaError, UsageTypeError
from memquota.accounting import (
    Bounds,
    ComponentRegistry,
    Contradiction,
    Contributor,
    Expression,
    Grant,
    Overcommitment,
    Setting,
    Sum,
    VerifiedBounds,
)

# Own bounds by name: None is undeclared. Small and large numbers, so that sums hit a limit exactly.
sizes = st.integers(0, 20) | st.integers(0, 2**62)
forests = st.dictionaries(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=5).map(".".join),
    st.none() | st.tuples(sizes, sizes),
    max_size=25,
)


def registry_of(forest: dict[str, tuple[int, int] | None]) -> ComponentRegistry:
    registry = ComponentRegistry()
    for name, bounds in forest.items():
        component = registry.component(name)
        if bounds is not None:
            component.declare(Bounds(Setting(f"{name}-least", bounds[0]), Setting(f"{name}-most", bounds[1])))
    return registry


@given(forests, st.integers(0, 100) | st.integers(0, 2**62), st.sampled_from([-1, 0, 1]))
def test_it_is_accepted_exactly_when_a_brute_force_sum_fits(
    forest: dict[str, tuple[int, int] | None], some: int, near: int
) -> None:
    declared = [bounds for bounds in forest.values() if bounds is not None]
    minimum, firm = sum(bounds[0] for bounds in declared), sum(bounds[1] for bounds in declared)
    consistent = all(bounds[0] <= bounds[1] for bounds in declared)
    registry = registry_of(forest)
    # At the very edge of each sum, and somewhere else.
    for available in {some, firm + near, minimum + near}:
        if not 0 < available <= 2**62:
            continue
        grant = Grant(available, 0)

        if consistent and minimum <= available and firm <= available:
            verified = registry.verify(grant)
            assert (verified.minimum, verified.firm) == (minimum, firm)
            assert verified.headroom == available - firm
        else:
            with pytest.raises(BoundsError):
                registry.verify(grant)


@given(forests, st.integers(1, 100) | st.integers(1, 2**62))
def test_an_error_names_all_that_is_wrong(forest: dict[str, tuple[int, int] | None], available: int) -> None:
    declared = {name: bounds for name, bounds in forest.items() if bounds is not None}
    contradictory = {name for name, bounds in declared.items() if bounds[0] > bounds[1]}
    try:
        registry_of(forest).verify(Grant(available, 0))
    except BoundsError as error:
        text, problems = str(error), error.problems
    else:
        text, problems = "", ()

    lines = text.split("\n")
    assert {one.component for one in problems if isinstance(one, Contradiction)} == contradictory
    for name in contradictory:
        assert any(line.startswith(f"{name}: firm limit of ") for line in lines)
        assert any(line.endswith(f" = {name}-least={declared[name][0]:_}") for line in lines)
        assert any(line.endswith(f" = {name}-most={declared[name][1]:_}") for line in lines)
    for place, (what, suffix) in enumerate((("minimum", "least"), ("firm limit", "most"))):
        own = {name: bounds[place] for name, bounds in declared.items()}
        matching = [one for one in problems if isinstance(one, Overcommitment) and one.what == what]
        assert len(matching) == (sum(own.values()) > available)
        if not matching:
            continue
        (found,) = matching
        assert (found.needed, found.available) == (sum(own.values()), available)
        assert found.needed == found.others_size + sum(one.size for one in found.contributors)
        named = {one.component: one.size for one in found.contributors}
        assert {name for name, size in own.items() if size > available} <= named.keys()
        assert sorted(named.values(), reverse=True)[:5] == sorted(filter(None, own.values()), reverse=True)[:5]
        assert found.others == sum(1 for size in own.values() if size) - len(named)
        assert any(line.startswith(f"{what}: ") for line in lines)
        for name, size in named.items():
            assert any(
                line.startswith(f"  {name} ") and line.endswith(f" = {name}-{suffix}={size:_}") for line in lines
            )


def test_an_error_reads_like_this() -> None:
    registry = ComponentRegistry()
    registry.component("http").declare(
        lambda builder: (
            builder.minimum.setting("buffer", "64KiB"),
            builder.firm.above_minimum(Setting("connections", 300) * Setting("frame", "64KiB")),
        )
    )
    registry.component("parser").declare(Bounds("5MiB", Setting("parser.max", "3MiB")))
    for number in range(6):
        registry.component(f"small-{number}").declare(Bounds(number * 1024))

    with pytest.raises(BoundsError) as refused:
        registry.verify(Grant("4MiB", 0.25))

    assert str(refused.value) == "\n".join(
        [
            "the declared bounds do not fit into 3.0 MiB (4.0 MiB less 25 %):",
            "minimum: 5.1 MiB in all, 2.1 MiB more than there is",
            "  parser 5.0 MiB = 5_242_880",
            "  http 64.0 KiB = buffer=65_536",
            "  small-5 5.0 KiB = 5_120",
            "  small-4 4.0 KiB = 4_096",
            "  small-3 3.0 KiB = 3_072",
            "  and 2 more with 3.0 KiB",
            "firm limit: 21.8 MiB in all, 18.8 MiB more than there is",
            "  http 18.8 MiB = buffer=65_536 + connections=300 * frame=65_536",
            "  parser 3.0 MiB = parser.max=3_145_728",
            "  small-5 5.0 KiB = 5_120",
            "  small-4 4.0 KiB = 4_096",
            "  small-3 3.0 KiB = 3_072",
            "  and 2 more with 3.0 KiB",
            "parser: firm limit of 3.0 MiB below the minimum of 5.0 MiB, which it includes",
            "  minimum 5_242_880 = 5_242_880",
            "  firm limit 3_145_728 = parser.max=3_145_728",
        ]
    )


def test_a_byte_too_much_is_told_as_a_byte() -> None:
    registry = ComponentRegistry()
    registry.component("x").declare(Bounds(0, 1024**2 + 1))

    with pytest.raises(BoundsError, match=r"firm limit: 1\.0 MiB in all, 1 B more than there is"):
        registry.verify(Grant("1MiB", 0))


def test_all_components_that_alone_are_too_large_are_named() -> None:
    registry = ComponentRegistry()
    for number in range(9):
        registry.component(f"big-{number}").declare(Bounds(0, 100 + number))
        registry.component(f"small-{number}").declare(Bounds(0, 1))

    with pytest.raises(BoundsError) as refused:
        registry.verify(Grant(100, 0))

    (problem,) = refused.value.problems
    assert isinstance(problem, Overcommitment)
    assert [one.component for one in problem.contributors] == [f"big-{number}" for number in range(8, 0, -1)]
    assert (problem.others, problem.others_size) == (10, 109)


def test_the_error_is_no_usage_error_and_carries_its_problems_through_pickling_and_json() -> None:
    registry = ComponentRegistry()
    registry.component("x").declare(Bounds(7, Sum(1, 2, name="most")))

    with pytest.raises(BoundsError) as refused:
        registry.verify(Grant(4, 0))

    error = refused.value
    assert BoundsError.__bases__ == (MemoryQuotaError,)
    assert error.problems == (
        Overcommitment("minimum", 7, 4, (Contributor("x", 7, "7"),), 0, 0),
        Contradiction("x", Bounds(7).minimum, Sum(1, 2, name="most")),
    )
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (str(twin), twin.problems) == (str(error), error.problems)
    over, contradiction = json.loads(json.dumps([problem.as_dict() for problem in error.problems]))
    assert over == {
        "kind": "overcommitment",
        "what": "minimum",
        "needed": 7,
        "available": 4,
        "contributors": [{"component": "x", "size": 7, "formula": "7"}],
        "others": 0,
        "others_size": 0,
    }
    assert contradiction["component"] == "x"
    assert Expression.from_dict(contradiction["firm"]) == Sum(1, 2, name="most")


def test_sums_above_any_size_are_too_much_and_nothing_else() -> None:
    registry = ComponentRegistry()
    for name in "abc":
        registry.component(name).declare(Bounds(0, Setting("n", 2**62) * Setting("size", 2**62)))

    with pytest.raises(BoundsError, match="firm limit: ") as refused:
        registry.verify(Grant("1GiB"))

    assert refused.value.problems[0].as_dict()["needed"] == 3 * 2**124


def test_verified_bounds_tell_what_they_fit_into() -> None:
    registry = ComponentRegistry()
    registry.component("a.b").declare(Bounds(1, 10))
    grant = Grant(100, 0.5)

    verified = registry.verify(grant)

    assert isinstance(verified, VerifiedBounds)
    assert (verified.minimum, verified.firm, verified.headroom, verified.grant) == (1, 10, 40, grant)
    assert verified.as_dict() == {
        "grant": grant.as_dict(),
        "headroom": 40,
        "declared": registry.declared().as_dict(),
    }
    registry.component("a.b").declare(Bounds(1, 20))
    assert verified.firm == 10


def test_nothing_declared_fits_everywhere() -> None:
    assert ComponentRegistry().verify(Grant(1)).headroom == 0


@pytest.mark.parametrize("nonsense", ["512MiB", 512, None])
def test_what_is_no_grant_is_refused(nonsense: Any) -> None:
    with pytest.raises(UsageTypeError, match="bounds are verified against a Grant, not"):
        ComponentRegistry().verify(nonsense)
