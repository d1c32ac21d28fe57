"""Limits that change while running: all at once, also in the middle of a round."""

from collections.abc import Callable
from typing import Any

import pytest

from memquota import AccountClosed, CloseReason, MemoryReclaimed, QuotaExceeded, Reclaimed, Tracker, UsageError
from memquota.host import FixedProvider
from memquota.observe import Event, LimitsChanged, RoundEnded, RoundOutcome, RoundStarted, VictimAsked
from memquota.testing import ScriptedParticipant, assert_books_balance
from tests.api.support import World, raises


def names(world: World) -> list[str]:
    return [event.account for event in world.told(VictimAsked)]


def limits(tracker: Tracker) -> tuple[int, int, int | None]:
    return tracker.limit, tracker.low_water, tracker.hard_limit


# --- the tracker ------------------------------------------------------------------------------------------------------


def test_a_default_low_water_follows_the_limit() -> None:
    """One that was given stays; None makes it the default again."""
    tracker = Tracker("1KiB")
    assert limits(tracker) == (1024, 768, None)
    tracker.reconfigure(limit="2KiB")
    assert limits(tracker) == (2048, 1536, None)
    tracker.reconfigure(low_water=1000)
    tracker.reconfigure(limit=3000)
    assert limits(tracker) == (3000, 1000, None)
    tracker.reconfigure(low_water=None)
    assert limits(tracker) == (3000, 2250, None)
    tracker.reconfigure()
    assert limits(tracker) == (3000, 2250, None)


def test_a_hard_limit_comes_and_goes() -> None:
    tracker = Tracker(1000, hard_limit=1000)
    account = tracker.new_account()
    account.claim(900)

    with pytest.raises(QuotaExceeded):
        account.claim(101)
    tracker.reconfigure(hard_limit="2KB")
    account.reconfigure(minimum=5000)
    account.claim(1100)
    with pytest.raises(QuotaExceeded):
        account.claim(1)
    tracker.reconfigure(hard_limit=None)
    account.claim(1)

    assert limits(tracker) == (1000, 750, None)
    assert account.used == 2001


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"limit": 0}, "limit of 0 bytes is not between 1 and 2**62"),
        ({"limit": -1}, "limit must not be negative"),
        ({"limit": None}, "limit must be a whole number of bytes or a text such as '512MiB', not NoneType"),
        ({"limit": 1.0}, "limit must be a whole number of bytes or a text such as '512MiB', not float"),
        ({"limit": "1M"}, "limit '1M' is ambiguous: write '1MiB' or '1MB'"),
        ({"limit": 2**62 + 1}, "limit must not be above 4.0 EiB (2**62 bytes)"),
        ({"low_water": 1001}, "low water 1001 is above the limit 1000"),
        ({"low_water": -1}, "low water must not be negative"),
        ({"low_water": True}, "low water must be a whole number of bytes or a text such as '512MiB', not bool"),
        ({"limit": 400}, "low water 500 is above the limit 400"),
        ({"limit": 5000}, "hard limit 2000 is below the limit 5000"),
        ({"hard_limit": 999}, "hard limit 999 is below the limit 1000"),
        ({"hard_limit": 0}, "hard limit of 0 bytes is not between 1 and 2**62"),
        ({"limit": 3000, "low_water": 100, "hard_limit": 2999}, "hard limit 2999 is below the limit 3000"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_limits_that_cannot_be_leave_all_as_it_was(change: dict[str, Any], text: str) -> None:
    """F32: P8: also where a part of them could."""
    world = World(1000, low_water=500, hard_limit=2000)

    with raises(UsageError, text):
        world.tracker.reconfigure(**change)

    assert limits(world.tracker) == (1000, 500, 2000)
    assert world.told(LimitsChanged) == []


def test_a_change_is_told() -> None:
    """P12: with all the limits that hold now."""
    world = World(1000, name="main")
    account = world.tracker.new_account("a")

    world.tracker.reconfigure(limit=2000, hard_limit=3000)
    account.reconfigure(limit=500)
    account.reconfigure(hard_limit=600, limit=None)
    account.reconfigure(hard_limit=None, priority=3)

    assert world.told(LimitsChanged) == [
        LimitsChanged("main", 2000, 1500, 3000),
        LimitsChanged("a", 500, 375, None),
        LimitsChanged("a", None, 450, 600),
        LimitsChanged("a", None, None, None),
    ]


def test_a_limit_below_usage_starts_a_round(world: World) -> None:
    """F32: at once, not with the next claim."""
    for n in range(8):
        world.holder(f"h{n}", 100)

    world.tracker.reconfigure(limit=500)

    assert names(world) == [f"h{n}" for n in range(5)]
    assert world.tracker.used == 300


def test_a_low_water_alone_starts_nothing(world: World) -> None:
    world.holder("a", 900)

    world.tracker.reconfigure(low_water=0)

    assert world.told(RoundStarted) == []
    assert world.tracker.used == 900


def test_credit_that_is_out_comes_back_when_a_limit_is_lowered() -> None:
    """P2: each handle learns of it at its next slow path."""
    world = World("1GiB")
    holders = [world.holder(f"h{n}", 1000) for n in range(20)]
    assert world.tracker.statistics().credit > 2**20 // 32

    world.tracker.reconfigure(limit="1MiB")
    for one in holders:
        one.participation.claim(20_000)  # more than any of them has

    assert world.tracker.statistics().credit <= 2**20 // 32
    assert_books_balance(world.tracker, 20 * 21_000)


@pytest.mark.parametrize("how", ["add_parent", "account", "tracker", "host"])
def test_credit_that_came_before_a_smaller_limit_counts_until_its_handle_releases_something(how: str) -> None:
    """P2: it is its owner's alone, who may be using it; and else who lives on his credit would keep it for ever."""
    world = World("1GiB" if how != "host" else "100%")
    holder = world.holder("a", 2**18)
    above = holder.account
    credit = world.tracker.statistics().credit
    assert credit > 2**20

    if how == "add_parent":
        above = world.tracker.new_account("above", limit="8MiB")
        holder.account.add_parent(above)
    elif how == "account":
        above.reconfigure(limit="8MiB")
    elif how == "tracker":
        world.tracker.reconfigure(limit="8MiB")
    else:
        world.tracker.follow(FixedProvider("8MiB"), every=3600.0)
    assert 2**20 < above.used <= 2**18 + credit
    holder.get()

    assert 0 < above.used <= 8 * 2**20 // 32
    assert_books_balance(world.tracker, 0)
    world.tracker.close()


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_an_account_is_changed_as_a_whole(world: World) -> None:
    account = world.tracker.new_account("a", limit=500, hard_limit=600, minimum=10, priority=1)

    account.reconfigure(minimum="1KiB", priority=-2)
    assert (account.limit, account.hard_limit, account.minimum, account.priority) == (500, 600, 1024, -2)
    account.reconfigure(limit=None)
    assert (account.limit, account.hard_limit, account.minimum, account.priority) == (None, 600, 1024, -2)
    account.reconfigure(hard_limit=None)
    assert (account.limit, account.hard_limit, account.minimum, account.priority) == (None, None, 1024, -2)
    account.reconfigure(limit="1KB")
    assert (account.limit, account.hard_limit) == (1000, None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"limit": 0}, "limit of 0 bytes is not between 1 and 2**62"),
        ({"limit": 601}, "hard limit 600 is below the limit 601"),
        ({"limit": "x"}, "limit 'x' is not a size such as '512MiB', '2GB' or '1.5Gi'"),
        ({"hard_limit": 499}, "hard limit 499 is below the limit 500"),
        ({"minimum": None}, "minimum must be a whole number of bytes or a text such as '512MiB', not NoneType"),
        ({"minimum": 5, "limit": 700}, "hard limit 600 is below the limit 700"),
        ({"priority": 5, "minimum": -1}, "minimum must not be negative"),
        ({"priority": "high", "limit": 1}, "a priority must be an int, not 'high'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_an_account_cannot_be_leaves_all_as_it_was(world: World, change: dict[str, Any], text: str) -> None:
    """F32: P8: also where a part of it could."""
    account = world.tracker.new_account("a", limit=500, hard_limit=600, minimum=10, priority=1)
    before = world.books()

    with raises(UsageError, text):
        account.reconfigure(**change)

    assert world.books() == before
    assert world.told(LimitsChanged) == []


def test_a_closed_account_cannot_be_changed(world: World) -> None:
    account = world.tracker.new_account("a", limit=5)
    account.close()

    with raises(AccountClosed, "account 'a' is closed: closed by hand"):
        account.reconfigure(limit=10)

    assert account.limit == 5


def test_a_limit_that_appears_holds_for_what_is_there_already(world: World) -> None:
    """Whatever was claimed before it, at any depth."""
    peer = world.tracker.new_account("peer")
    first, second = (world.holder(name, 200, parent=peer.new_child()) for name in ("first", "second"))
    peer.reconfigure(hard_limit=450)
    with pytest.raises(QuotaExceeded):
        second.put(51)

    peer.reconfigure(limit=399, hard_limit=None)

    assert names(world) == ["first"]
    assert (first.account.closed, second.account.closed) == (True, False)
    assert peer.used == 200


def test_a_limit_that_goes_holds_nobody_back(world: World) -> None:
    peer = world.tracker.new_account("peer", limit=100, hard_limit=100)
    holder = world.holder("a", 90, parent=peer)

    peer.reconfigure(limit=None, hard_limit=None)
    holder.put(500)

    assert world.told(RoundStarted) == []
    assert_books_balance(world.tracker, 590)


# --- in the middle of a round -----------------------------------------------------------------------------------------


def _in_answer(world: World, change: Callable[[], None]) -> None:
    def answer(one: ScriptedParticipant, _: object) -> Reclaimed:
        if not done:
            done.append(True)
            change()
        return Reclaimed.COLLAPSING

    done: list[bool] = []
    for one in world.holders:
        one.answer = answer


def _in_age(world: World, change: Callable[[], None]) -> None:
    def age(one: ScriptedParticipant) -> float:
        if one is world.holders[1] and not done:
            done.append(True)
            change()
        return one.items[0][0]

    done: list[bool] = []
    for one in world.holders:
        one.age = age


def _in_hook(world: World, change: Callable[[], None]) -> None:
    def hook(event: Event) -> None:
        if isinstance(event, VictimAsked) and event.account == "h0":
            change()

    world.tracker.subscribe(hook)


def _in_on_close(world: World, change: Callable[[], None]) -> None:
    def callback(reason: CloseReason) -> None:
        change()

    world.holders[0].account.on_close(callback)


@pytest.fixture(params=[_in_answer, _in_age, _in_hook, _in_on_close])
def during(request: pytest.FixtureRequest) -> Any:
    """Has something done in the middle of a round, when the first of ten victims of 100 bytes is at stake."""
    return request.param


@pytest.fixture
def crowd(world: World) -> World:
    for n in range(10):
        world.holder(f"h{n}", 100)
    return world


def test_a_limit_lowered_in_the_middle_takes_more_victims(crowd: World, during: Any) -> None:
    """F32: the round goes down to the new low water."""
    during(crowd, lambda: crowd.tracker.reconfigure(limit=500))

    crowd.holders[-1].put(1)

    assert names(crowd) == [f"h{n}" for n in range(7)]
    assert crowd.tracker.used == 301
    assert crowd.told(RoundEnded)[-1].target == 375


def test_a_limit_raised_in_the_middle_spares_who_was_not_asked_yet(crowd: World, during: Any) -> None:
    """F32: P10: the round stops before the next victim."""
    during(crowd, lambda: crowd.tracker.reconfigure(limit=5000))

    crowd.holders[-1].put(1)

    assert len(names(crowd)) <= 1
    assert crowd.tracker.used in (901, 1001)
    (ended,) = crowd.told(RoundEnded)
    assert (ended.outcome, ended.target) == (RoundOutcome.DONE, 3750)


def test_limits_that_cannot_be_change_nothing_in_the_middle(crowd: World, during: Any) -> None:
    """F32: never a new limit with the old low water."""
    told: list[UsageError] = []

    def change() -> None:
        for wrong in ({"limit": 0}, {"limit": 100, "low_water": 200}, {"low_water": 1001}, {"limit": None}):
            try:
                crowd.tracker.reconfigure(**wrong)
            except UsageError as error:
                told.append(error)

    during(crowd, change)

    crowd.holders[-1].put(1)

    assert len(told) == 4
    assert limits(crowd.tracker) == (1000, 750, None)
    assert names(crowd) == ["h0", "h1", "h2"]


def test_a_round_by_hand_keeps_its_target(crowd: World, during: Any) -> None:
    """F32: it was asked for."""
    during(crowd, lambda: crowd.tracker.reconfigure(limit=5000))

    crowd.tracker.reclaim(300)

    assert crowd.tracker.used == 300


@pytest.mark.parametrize("change", [{"limit": None}, {"limit": 5000}, {"limit": 900, "hard_limit": 950}])
def test_an_account_changed_in_the_middle_of_its_round(during: Any, change: dict[str, Any]) -> None:
    """F32: without a limit there is nothing to be about; else it goes on to the new low water."""
    world = World("1GiB")
    peer = world.tracker.new_account("peer", limit=1000)
    for n in range(10):
        world.holder(f"h{n}", 100, parent=peer)
    during(world, lambda: peer.reconfigure(**change))

    world.holders[-1].put(1)

    victims = len(names(world))
    if change["limit"] == 900:
        assert peer.used <= 675
        assert victims == 4
    else:
        assert victims <= 1
        assert peer.used >= 901
    assert not peer.closed
    world.holders[-1].put(1)
    assert peer.limit == change["limit"]


def test_protection_that_comes_in_the_middle_counts(crowd: World) -> None:
    """Who is chosen and not asked yet is let go."""

    def answer(one: ScriptedParticipant, _: object) -> Reclaimed:
        crowd.holders[1].account.reconfigure(minimum=100)
        crowd.holders[2].account.reconfigure(priority=1)
        return Reclaimed.COLLAPSING

    crowd.holders[0].answer = answer

    crowd.holders[-1].put(1)

    assert names(crowd) == ["h0", "h3", "h4"]


def test_concurrent_limits_are_never_torn(world: World) -> None:
    """F32: whoever looks sees limits that were set together."""
    seen: list[LimitsChanged] = []
    world.tracker.subscribe(lambda event: seen.append(event) if isinstance(event, LimitsChanged) else None)

    for limit in (10, 1000, 20, 500):
        world.tracker.reconfigure(limit=limit, low_water=limit // 2, hard_limit=limit * 2)

    assert [(one.limit, one.low_water, one.hard_limit) for one in seen] == [
        (10, 5, 20),
        (1000, 500, 2000),
        (20, 10, 40),
        (500, 250, 1000),
    ]


def test_a_victim_that_lowers_its_own_limit_collapses_like_any_other(world: World) -> None:
    def answer(one: ScriptedParticipant, _: object) -> Reclaimed:
        one.account.reconfigure(limit=1)
        return Reclaimed.PARTIAL

    holder = world.holder("a", 600, answer=answer)

    with pytest.raises(MemoryReclaimed):
        holder.put(600)

    assert holder.account.closed
    assert world.tracker.used == 0
