"""Dry runs: who would go, in which order and why; nothing is touched."""

import gc
from math import inf
from typing import Any

import pytest

from memquota import Account, PlannedVictim, Reclaimed, ReclaimPlan, ReclaimRequest, Tracker
from memquota.observe import VictimAsked
from tests.api.support import World, logged


def everything(world: World) -> object:
    """What a dry run could touch: the books, the numbers, what was told."""
    ledger = world.tracker._books.ledger
    entries = [(entry[:3], entry[3].surveyed_in, entry[3].silent_since) for entry in ledger.root_scope.index]
    return world.tracker.snapshot(), len(world.events), entries, ledger.version, ledger.surveys


def test_a_plan_says_who_would_go_and_why(world: World) -> None:
    """P12: in order, with bytes, age, score and reason; and what would be left."""
    world.holder("first", 300)
    world.holder("second", 200)
    world.holder("third", 100)

    plan = world.tracker.reclaim(150, dry_run=True)

    assert plan == ReclaimPlan(
        used=600,
        target=150,
        victims=(
            PlannedVictim("first", 300, 3.0, 3.0, "first by oldest_data: 3.0; its oldest data is 3.000 s old"),
            PlannedVictim("second", 200, 2.0, 2.0, "first by oldest_data: 2.0; its oldest data is 2.000 s old"),
        ),
        left=100,
    )


def test_without_a_target_a_plan_goes_down_to_low_water(world: World) -> None:
    for n in range(8):
        world.holder(f"h{n}", 100)

    assert [victim.account for victim in world.tracker.reclaim(dry_run=True).victims] == ["h0"]
    assert world.tracker.reclaim(800, dry_run=True).victims == ()
    assert world.tracker.reclaim("0B", dry_run=True).left == 0


def test_a_plan_comes_true(any_policy: World) -> None:
    """The round takes exactly whom the dry run named."""
    world = any_policy
    for number, size in enumerate((50, 300, 20, 250, 10, 120, 80)):
        world.holder(f"h{number}", size, priority=number % 2, minimum=100 if number == 5 else 0)
    world.clock.advance(5)
    plan = world.tracker.reclaim(200, dry_run=True)

    world.tracker.reclaim(200)

    assert [event.account for event in world.told(VictimAsked)] == [victim.account for victim in plan.victims]
    if not world.tracker._rounds.by_time:  # there the score of a round is priority and time
        assert [event.score for event in world.told(VictimAsked)] == [victim.score for victim in plan.victims]
    assert world.tracker.used == plan.left


def test_a_plan_comes_true_among_those_of_one_age(any_policy: World) -> None:
    """Also where one of them is not known to be so young yet: the round finds that out, and then takes the other."""
    world = any_policy
    peer = world.tracker.new_account("peer", limit=150)
    world.holder("oldest", 100, parent=peer)
    asked, not_asked = world.holder("asked", parent=peer), world.holder("not asked")
    asked.put(20)
    not_asked.put(20)
    world.clock.advance(1)
    for one in (asked, not_asked):
        one.put(20)
        one.get()
    world.holder("claims", 40, parent=peer)  # runs a round about the peer alone
    assert (asked.surveys, not_asked.surveys) == (1, 0)
    world.events.clear()

    plan = world.tracker.reclaim(60, dry_run=True)
    world.tracker.reclaim(60)

    assert [event.account for event in world.told(VictimAsked)] == [victim.account for victim in plan.victims]
    assert len(plan.victims) == 1


def test_a_dry_run_touches_nothing(any_policy: World) -> None:
    """Neither books nor candidates, counts, events; only ages are asked for."""
    world = any_policy
    holders = [
        world.holder(f"h{n}", 100, age=age, answer="raise")
        for n, age in enumerate(("honest", "none", "future", "nan", "text", "raise", "huge"))
    ]
    own = world.tracker.new_account("own")
    own.claim(10)
    before = everything(world)

    first = world.tracker.reclaim(0, dry_run=True)
    second = world.tracker.reclaim(0, dry_run=True)

    assert everything(world) == before
    assert first == second
    assert [one.surveys for one in holders] == [2] * 7
    assert [one.requests for one in holders] == [[]] * 7
    assert not any(one.participation.closed for one in holders)


def test_a_dry_run_does_not_remember_who_was_silent(world: World) -> None:
    """F13: None is now the first time that a round gets it, however many dry runs got it before."""
    silent = world.holder("silent", 100, age="none")
    other = world.holder("other", 100)

    plans = [world.tracker.reclaim(100, dry_run=True) for _ in range(3)]
    world.tracker.reclaim(100)

    assert [[victim.account for victim in plan.victims] for plan in plans] == [["other"]] * 3
    assert other.account.closed
    assert not silent.account.closed
    plan = world.tracker.reclaim(0, dry_run=True)
    assert (plan.victims[0].account, plan.victims[0].age) == ("silent", inf)  # a round got it, so it is very old now


def test_what_fails_or_lies_is_very_old_in_a_plan(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """P5: a plan fails for nobody."""
    world.holder("honest", 100)
    world.holder("raises", 100, age="raise")
    world.holder("lies", 100, age="text")

    plan = world.tracker.reclaim(0, dry_run=True)

    assert [(victim.account, victim.age) for victim in plan.victims] == [
        ("raises", inf),
        ("lies", inf),
        ("honest", 3.0),
    ]
    assert logged(caplog) == []


def test_a_coroutine_for_an_age_is_closed() -> None:
    """F19: it would warn when it is collected."""

    class Late:
        async def oldest_data(self) -> float:
            return 0.0

        async def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            return Reclaimed.COLLAPSING

    tracker = Tracker(1000, reclaimer="task")
    account = tracker.new_account()
    late: Any = Late()
    participation = account.register_participant(late)
    participation.claim(10)

    plan = tracker.reclaim(0, dry_run=True)
    gc.collect()

    assert [victim.age for victim in plan.victims] == [inf]


def test_a_victim_is_planned_once_with_all_below(world: World) -> None:
    """Each byte counts once, also below several parents."""
    top = world.holder("top", 50)
    left, right = top.account.new_child("left"), top.account.new_child("right")
    both = left.new_child("both")
    both.add_parent(right)
    for account, size in ((left, 1), (right, 2), (both, 4)):
        account.claim(size)
    world.clock.advance(1)
    world.holder("other", 100)

    plan = world.tracker.reclaim(0, dry_run=True)

    assert [(victim.account, victim.bytes) for victim in plan.victims] == [("top", 57), ("other", 100)]
    assert plan.left == 0


def test_children_that_go_first_are_not_counted_with_their_parent(world: World) -> None:
    """What is left of the parent is its own; its minimum is judged by that."""
    parent = world.tracker.new_account("parent", minimum=60)
    child = parent.new_child("child")
    child.claim(100)
    world.clock.advance(1)
    parent.claim(60)
    world.clock.advance(1)

    plan = world.tracker.reclaim(0, dry_run=True)
    world.tracker.reclaim(0)

    assert [(victim.account, victim.bytes) for victim in plan.victims] == [("child", 100)]
    assert plan.left == world.tracker.used == 60


def test_an_empty_tracker_has_an_empty_plan(world: World) -> None:
    world.tracker.new_account()

    assert world.tracker.reclaim(dry_run=True) == ReclaimPlan(0, 750, (), 0)


def test_who_holds_nothing_but_credit_is_in_no_plan() -> None:
    """As no round would ask it."""
    world = World("1GiB")
    world.holder("empty", 100).get()
    assert world.tracker.used > 0

    assert world.tracker.reclaim(0, dry_run=True).victims == ()


def test_a_dry_run_in_the_middle_of_a_round_disturbs_nothing(world: World) -> None:
    """F15: it is a question, from wherever it is asked."""
    plans: list[ReclaimPlan] = []

    def look(_: object, __: object) -> Reclaimed:
        plans.append(world.tracker.reclaim(0, dry_run=True))
        return Reclaimed.COLLAPSING

    for n in range(3):
        world.holder(f"h{n}", 100, answer=look)

    world.tracker.reclaim(0)

    assert [len(plan.victims) for plan in plans] == [3, 2, 1]
    assert world.tracker.used == 0


def test_who_closes_while_the_plan_is_made_is_not_in_it(world: World) -> None:
    accounts: list[Account] = []

    def close_other(one: Any) -> float:
        accounts[0].close()
        return 100.0

    world.holder("nosy", 100, age=close_other)
    accounts.append(world.holder("other", 100).account)

    plan = world.tracker.reclaim(0, dry_run=True)

    assert [victim.account for victim in plan.victims] == ["nosy"]
    assert plan.used == 100
