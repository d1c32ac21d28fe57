"""Clocks that stand, jump, go back or answer nonsense."""

import itertools
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from memquota import Tracker, UsageError
from memquota.observe import VictimAsked
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World, raises


def _back() -> float:
    return -3600.0


def _forward() -> float:
    return 3600.0


def _stands() -> float:
    return 0.0


@pytest.mark.parametrize("step", [_back, _forward, _stands])
def test_order_is_total_whatever_the_clock_does(any_policy: World, step: Callable[[], float]) -> None:
    """F33: no exception; everybody is asked once, oldest first as far as the clock told."""
    world = any_policy
    holders = []
    for number in range(6):
        holders.append(world.holder(f"h{number}", 100))
        world.clock.advance(step())
    world.clock.advance(step())

    world.tracker.reclaim(0)

    assert sorted(event.account for event in world.told(VictimAsked)) == [f"h{number}" for number in range(6)]
    if world.tracker._rounds.by_time:
        order = range(5, -1, -1) if step is _back else range(6)  # what participants say counts: they read it themselves
        assert [event.account for event in world.told(VictimAsked)] == [f"h{number}" for number in order]
    assert all(event.age is not None and event.age >= 0 for event in world.told(VictimAsked))
    assert_books_balance(world.tracker, 0)


def test_time_stands_where_a_clock_goes_back(world: World) -> None:
    """F33: until it is where it was; what was old does not become younger."""
    world.holder("before", 100)
    account = world.tracker.new_account("after")
    world.clock.advance(-1000)
    account.claim(100)
    assert world.tracker.reclaim(0, dry_run=True).victims[0].account == "before"
    world.clock.advance(1010)

    plan = world.tracker.reclaim(0, dry_run=True)

    assert [(victim.account, victim.age) for victim in plan.victims] == [("before", 11.0), ("after", 11.0)]


@pytest.mark.parametrize("nonsense", [nan, -inf])
def test_a_clock_that_answers_nonsense_stands_still(nonsense: float) -> None:
    """F33: as long as it does."""
    clock = FakeClock(100.0)
    tracker = Tracker(1000, clock=clock)
    holder = ScriptedParticipant(tracker.new_account("a"), clock)
    holder.put(100)
    clock.set(nonsense)
    account = tracker.new_account("b")
    account.claim(100)

    plan = tracker.reclaim(0, dry_run=True)

    assert [(victim.account, victim.age) for victim in plan.victims] == [("a", 0.0), ("b", 0.0)]


def test_a_clock_that_jumps_to_infinity_breaks_nothing(world: World) -> None:
    """F33: all data is of now then."""
    holders = [world.holder(f"h{n}", 100) for n in range(2)]
    world.clock.set(inf)
    for one in holders:
        one.put(100)

    world.tracker.reclaim(0)

    assert world.tracker.used == 0


class Tick(float):
    """A time whose code is nobody's business."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("foreign code was run")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __abs__ = __hash__ = _fail
    __lt__ = __le__ = __eq__ = __ne__ = __repr__ = __str__ = __format__ = _fail


@pytest.mark.parametrize("kind", [int, Tick, Decimal, Fraction])
def test_whatever_number_a_clock_answers_is_a_float_in_the_books(any_policy: World, kind: type[Any]) -> None:
    """P6: else the number's own code would run under the lock, or fail there."""
    ticks = itertools.count(100)
    world = any_policy
    tracker = Tracker(1000, clock=lambda: kind(next(ticks)), policy=world.tracker._rounds.policy)
    tracker.subscribe(world.events.append)
    first, second = tracker.new_account("first"), tracker.new_account("second")
    first.claim(100)
    second.claim(200)
    first.claim(100)

    plan = tracker.reclaim(0, dry_run=True)
    ended = tracker.reclaim(0)

    assert sorted(victim.account for victim in plan.victims) == ["first", "second"]
    assert ended is not None
    assert type(ended.when) is float
    assert [type(event.when) for event in world.told(VictimAsked)] == [float, float]
    assert_books_balance(tracker, 0)


def test_a_clock_that_fails_says_so_at_once() -> None:
    """And the tracker is not made."""

    def broken() -> float:
        raise OSError("no clock")

    with pytest.raises(OSError, match=r"^no clock$"):
        Tracker(1000, clock=broken)
    with pytest.raises(TypeError):
        Tracker(1000, clock=lambda: "noon")  # type: ignore[arg-type,return-value]


def test_a_claim_whose_clock_fails_has_claimed_nothing() -> None:
    """P8: its error passes."""
    times = itertools.chain([0.0, 1.0], itertools.repeat(None))

    def ends() -> Any:
        now = next(times)
        if now is None:
            raise OSError("no clock")
        return now

    tracker = Tracker(1000, clock=ends)
    account = tracker.new_account()
    account.claim(1)

    with pytest.raises(OSError, match=r"^no clock$"):
        account.claim(1)

    assert account.used == 1
    account.release(1)


def test_a_clock_may_be_any_callable() -> None:
    """Whole seconds too."""
    numbers = itertools.count()
    tracker = Tracker(1000, clock=numbers.__next__)
    tracker.new_account().close()
    account = tracker.new_account()
    account.claim(10)

    (victim,) = tracker.reclaim(0, dry_run=True).victims

    assert victim.age >= 1.0


def test_the_default_clock_is_monotonic() -> None:
    tracker = Tracker(1000)
    account = tracker.new_account()
    before = time.monotonic()
    account.close()
    after = time.monotonic()

    assert account.close_reason is not None
    assert before <= account.close_reason.when <= after


def test_a_clock_is_a_callable() -> None:
    with raises(UsageError, "a clock must be callable, not 5.0"):
        Tracker(1000, clock=5.0)  # type: ignore[arg-type]


def test_a_fake_clock_moves_when_told() -> None:
    clock = FakeClock()
    assert clock() == 0.0
    clock.advance(1.5)
    clock.advance(-1)
    assert clock() == 0.5
    clock.set(7)
    assert clock() == 7.0
    assert FakeClock(start=3)() == 3.0
