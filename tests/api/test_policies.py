"""Policies: the built-in ones, one's own, and what becomes of those that fail."""

import logging
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from memquota import Tracker, UsageError, policies
from memquota.observe import VictimAsked
from memquota.policies import Candidate
from tests.api.support import World, logged, raises

FAILED = "a policy, instead of which oldest data goes first, raised"


def names(world: World) -> list[str]:
    return [event.account for event in world.told(VictimAsked)]


# --- those that come along --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("oldest_data", ["small and old", "large", "fresh hoard"]),
        ("largest", ["fresh hoard", "large", "small and old"]),
        ("byte_seconds", ["large", "small and old", "fresh hoard"]),
        (policies.oldest_data, ["small and old", "large", "fresh hoard"]),
        (policies.largest, ["fresh hoard", "large", "small and old"]),
        (policies.byte_seconds, ["large", "small and old", "fresh hoard"]),
        (lambda one: -one.bytes, ["small and old", "large", "fresh hoard"]),
    ],
)
def test_a_policy_orders_the_victims(policy: Any, order: list[str]) -> None:
    """By age, by bytes, by bytes x age, by a key of one's own: the largest key first."""
    world = World(policy=policy)
    world.holder("small and old", 40)  # 40 x 10 s
    world.clock.set(105.0)
    world.holder("large", 300)  # 300 x 5 s
    world.clock.set(110.0)
    world.holder("fresh hoard", 500)
    world.clock.set(110.0)

    for _ in range(3):
        world.tracker.reclaim(world.tracker.used - 1)

    assert names(world) == order


def test_the_decision_shows_the_score() -> None:
    """P12: the policy's key, and its name in the reason."""
    world = World(policy="largest")
    world.holder("large", 600)
    world.holder("small", 100)

    world.tracker.reclaim(600)

    (asked,) = world.told(VictimAsked)
    assert (asked.score, asked.why, asked.next_account) == (
        600,
        "first by largest: 600; its oldest data is 2.000 s old",
        "small",
    )


def test_a_policy_gets_to_judge_by_these(world: World) -> None:
    """Name, time, age, bytes, byte-seconds, priority; of a participant, and of what an account claims itself."""
    seen: list[Candidate] = []

    def note(one: Candidate) -> float:
        seen.append(one)
        return one.age

    world = World(policy=note)
    world.holder("holder", 100, priority=2)
    account = world.tracker.new_account("account")
    account.claim(50)
    world.clock.advance(1)
    account.claim(20)
    world.clock.advance(4)

    world.tracker.reclaim(0, dry_run=True)

    assert seen == [
        Candidate("account", 101.0, 5.0, 70, 50 * 5.0 + 20 * 4.0, 0),
        Candidate("holder", 100.0, 6.0, 100, 600.0, 2),
    ]


def test_a_participant_may_keep_its_own_byte_seconds() -> None:
    """What it says counts, but for NaN; the built-in estimate is bytes x age."""
    world = World(policy="byte_seconds")
    hoard, claims_nothing, estimated = (world.holder(name, 100) for name in ("hoard", "nan", "estimated"))
    hoard.byte_seconds = lambda now: 5 * now  # type: ignore[attr-defined]
    claims_nothing.byte_seconds = lambda now: nan  # type: ignore[attr-defined]

    plan = world.tracker.reclaim(0, dry_run=True)

    assert [(victim.account, victim.score) for victim in plan.victims] == [
        ("hoard", 515.0),
        ("nan", 200.0),
        ("estimated", 100.0),
    ]
    assert estimated.requests == []


# --- keys of every sort -----------------------------------------------------------------------------------------------


class Backwards:
    """Can be ordered, and nothing else."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __lt__(self, other: "Backwards") -> bool:
        return self.value < other.value

    __eq__ = None  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Fractional(float):
    """A float with a repr of its own, as numpy's have."""

    def __repr__(self) -> str:
        raise AssertionError("foreign code was run")

    __str__ = __format__ = __neg__ = __lt__ = __gt__ = __repr__  # type: ignore[assignment]


class Whole(int):
    """The same of an int."""

    __str__ = __format__ = __neg__ = __lt__ = __gt__ = __repr__ = Fractional.__repr__  # type: ignore[assignment]


class Label(str):
    """Text that can be ordered and is its own text; its other code is none of ours."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    __format__ = __repr__ = Fractional.__repr__  # type: ignore[assignment]


@pytest.mark.parametrize(
    "key",
    [
        lambda one: one.bytes,
        lambda one: float(one.bytes),
        lambda one: Fraction(one.bytes, 3),
        lambda one: Decimal(one.bytes),
        lambda one: (one.priority, one.bytes),
        lambda one: f"{one.bytes:9}",
        lambda one: one.bytes**400,
        lambda one: -(10**5000) + one.bytes,
        lambda one: Backwards(one.bytes),
        lambda one: Fractional(one.bytes),
        lambda one: Whole(one.bytes),
        lambda one: Label(f"{one.bytes:9}"),
        lambda one: one.bytes > 250,
        lambda one: one.bytes if one.bytes < 250 else Fraction(one.bytes),
        lambda one: True if one.bytes < 250 else Decimal(one.bytes),
        lambda one: float(one.bytes) if one.bytes > 250 else Fraction(one.bytes),
        lambda one: inf if one.bytes == 300 else one.bytes,
        lambda one: nan if one.bytes == 100 else one.bytes,
        lambda one: -inf if one.bytes == 100 else one.bytes,
    ],
)
def test_any_key_that_can_be_ordered_is_taken(
    key: Callable[[Candidate], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Also mixed ones that can be compared, huge ones; NaN comes last."""
    world = World(policy=key)
    for size in (100, 300, 200):
        world.holder(str(size), size)

    plan = world.tracker.reclaim(0, dry_run=True)
    world.tracker.reclaim(0)

    assert names(world)[0] == plan.victims[0].account == "300"
    if not isinstance(plan.victims[0].score, bool):
        assert names(world) == [victim.account for victim in plan.victims]
        assert names(world) in (["300", "200", "100"], ["300", "100", "200"])
    assert world.tracker.used == 0
    assert logged(caplog, logging.ERROR) == []


def test_a_huge_key_is_described() -> None:
    """P12: it would fill the log, and Python refuses to spell it."""
    world = World(policy=lambda one: -(10**5000))
    world.holder("a", 100)

    (victim,) = world.tracker.reclaim(0, dry_run=True).victims

    assert victim.score == "-2**16609 or more"


def test_keys_run_no_code_under_the_lock() -> None:
    """P6: neither their order nor their text; a score that is no number is shown as text."""

    class Key:
        def __init__(self, one: Candidate) -> None:
            self.size = one.bytes

        def __lt__(self, other: "Key") -> bool:
            world.tracker.new_account().claim(0)
            return self.size < other.size

        def __str__(self) -> str:
            world.tracker.new_account().claim(0)
            return f"size {self.size}"

    world = World(policy=Key)
    for size in (100, 200, 300):
        world.holder(str(size), size)

    plan = world.tracker.reclaim(500, dry_run=True)
    world.tracker.reclaim(0)

    assert plan.victims[0].score == "size 300"
    assert [event.score for event in world.told(VictimAsked)] == ["size 300", "size 200", "size 100"]
    assert world.told(VictimAsked)[0].why == "first by Key: size 300; its oldest data is 1.000 s old"


def test_priority_comes_before_any_key() -> None:
    world = World(policy=lambda one: (one.bytes, one.account))
    world.holder("a", 300, priority=1)
    world.holder("b", 100)

    world.tracker.reclaim(0)

    assert names(world) == ["b", "a"]


def test_equal_keys_go_in_the_order_of_their_age() -> None:
    """As they stand among the candidates: a total order, whatever the policy."""
    world = World(policy=lambda one: 0)
    for name in ("a", "b", "c"):
        world.holder(name, 100)

    world.tracker.reclaim(0)

    assert names(world) == ["a", "b", "c"]


# --- policies that fail -----------------------------------------------------------------------------------------------


def _raises(one: Candidate) -> Any:
    raise ZeroDivisionError


def _raises_for_one(one: Candidate) -> Any:
    return one.bytes // (one.bytes - 200)


def _incomparable(one: Candidate) -> Any:
    return None


def _of_several_kinds(one: Candidate) -> Any:
    return str(one.bytes) if one.bytes == 200 else one.bytes


def _without_order(one: Candidate) -> Any:
    return complex(one.bytes)


def _without_text(one: Candidate) -> Any:
    class Key:
        def __lt__(self, other: object) -> bool:
            return False

        def __str__(self) -> str:
            raise ZeroDivisionError

    return Key()


@pytest.mark.parametrize(
    "policy", [_raises, _raises_for_one, _incomparable, _of_several_kinds, _without_order, _without_text]
)
def test_a_policy_that_fails_is_replaced_for_this_survey(
    policy: Callable[[Candidate], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """P5: oldest data goes first then, which the log says once; nobody's claim fails."""
    world = World(policy=policy)
    for size in (100, 300, 200):
        world.holder(str(size), size)
    late = world.tracker.new_account("late")

    late.claim(500)

    assert names(world) == ["100", "300"]
    assert late.used == 500
    assert [line.startswith(FAILED) for line in logged(caplog, logging.ERROR)] == [True]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 1024])
def test_a_policy_that_fails_late_is_replaced_too(
    piece: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """P5: keys may turn out to be of two kinds where sorted pieces are merged."""
    monkeypatch.setattr("memquota._ranking._CHUNK", piece)
    world = World(policy=lambda one: one.bytes if one.account < "h5" else one.account)
    for number in range(10):
        world.holder(f"h{number}", 10)

    world.tracker.reclaim(world.tracker.used - 20)
    assert names(world) == ["h0", "h1"]
    assert len(logged(caplog, logging.ERROR)) == 1
    world.tracker.reclaim(0)

    assert names(world) == [f"h{number}" for number in range(10)]


@pytest.mark.parametrize("piece", [1, 3])
def test_an_order_does_not_depend_on_how_it_is_sorted(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: piece by piece."""
    monkeypatch.setattr("memquota._ranking._CHUNK", piece)
    monkeypatch.setattr("memquota._ranking._HAND", 2)
    world = World(policy="largest")
    for size in (30, 80, 10, 70, 20, 60, 50, 40, 80):
        world.holder(str(size), size, priority=int(size == 70))

    world.tracker.reclaim(0)

    assert names(world) == ["80", "80", "60", "50", "40", "30", "20", "10", "70"]


def test_a_policy_is_shown_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """P12: P5: whatever kind of object it is; its own code is not asked."""

    class Odd:
        __name__ = None

        def __call__(self, one: Candidate) -> Any:
            if broken:
                raise ZeroDivisionError
            return one.bytes

        def __repr__(self) -> str:
            raise AssertionError("foreign code was run")

    broken = False
    world = World(policy=Odd())
    world.holder("a", 100)
    world.holder("b", 100)
    world.tracker.reclaim(100)
    broken = True
    world.tracker.reclaim(0)

    assert world.told(VictimAsked)[0].why.startswith("first by Odd: 100; ")
    assert logged(caplog, logging.ERROR) == [f"{FAILED} (Odd)"]


def test_a_policy_may_use_the_tracker() -> None:
    """F15: P6: it runs with no lock held; what it closes is not asked."""

    def meddle(one: Candidate) -> float:
        with world.tracker.new_account("within").claimed(5):
            world.tracker.reconfigure(limit=2000)
        if one.account == "first":
            second.account.close()
        return one.age

    world = World(policy=meddle)
    first, second, third = (world.holder(name, 300) for name in ("first", "second", "third"))

    world.tracker.reclaim(0)

    assert names(world) == ["first", "third"]
    assert second.requests == []
    assert first.account.closed
    assert third.account.closed


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_policy_is_a_name_or_a_callable() -> None:
    with raises(UsageError, "no policy 'youngest'; there are oldest_data, largest, byte_seconds"):
        Tracker(1000, policy="youngest")
    with raises(UsageError, "a policy must be a name or a callable, not 5"):
        Tracker(1000, policy=5)  # type: ignore[arg-type]
