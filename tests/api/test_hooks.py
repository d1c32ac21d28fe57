"""Hooks: every event, in order, with no lock held; whatever a hook does hurts only itself."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from memquota import Account, MemoryReclaimed, Reclaimed, Tracker, TrackerClosed, UsageError
from memquota.observe import (
    AccountClosing,
    Event,
    LimitsChanged,
    OverRelease,
    RoundEnded,
    RoundOutcome,
    RoundStarted,
    VictimAsked,
    VictimSettled,
)
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World, logged, raises


def test_every_hook_gets_every_event_in_order(world: World) -> None:
    other: list[Event] = []
    world.tracker.subscribe(other.append)

    world.holder("a", 600)
    world.holder("b", 450)

    assert [type(event) for event in world.events] == [
        RoundStarted,
        VictimAsked,
        AccountClosing,
        VictimSettled,
        RoundEnded,
    ]
    assert other == world.events


def test_events_cannot_be_changed(world: World) -> None:
    """They are values: every hook sees the same."""
    world.tracker.reconfigure(limit=2000)
    (event,) = world.told(LimitsChanged)

    with pytest.raises(AttributeError):
        event.limit = 5  # type: ignore[misc]


def test_who_subscribes_in_the_middle_of_a_round_is_told_the_rest() -> None:
    """Also where nobody listened before: the answer that was under way, and the next victims."""
    clock = FakeClock(100.0)
    tracker = Tracker(1000, low_water=400, clock=clock)
    events: list[Event] = []

    def answer(one: ScriptedParticipant, request: object) -> Reclaimed:
        if not events:
            tracker.subscribe(events.append)
        return Reclaimed.COLLAPSING

    holders = []
    for name in ("a", "b", "c"):
        holders.append(ScriptedParticipant(tracker.new_account(name), clock, answer=answer))
        holders[-1].put(400 if name != "c" else 300)
        clock.advance(1)

    assert [(type(event), getattr(event, "account", None)) for event in events] == [
        (AccountClosing, "a"),
        (VictimSettled, "a"),
        (VictimAsked, "b"),
        (AccountClosing, "b"),
        (VictimSettled, "b"),
        (RoundEnded, None),
    ]


def test_a_subscription_ends_when_it_is_ended(world: World) -> None:
    """Also one of two of the same hook, and more than once."""
    events: list[Event] = []
    first = world.tracker.subscribe(events.append)
    world.tracker.subscribe(events.append)

    world.tracker.reconfigure(limit=2000)
    assert len(events) == 2
    first()
    first()
    world.tracker.reconfigure(limit=1000)

    assert len(events) == 3


def test_subscriptions_may_change_while_an_event_is_delivered(world: World) -> None:
    """Who comes meanwhile gets the next event."""
    record: list[str] = []

    def first(event: Event) -> None:
        record.append("first")
        end()
        world.tracker.subscribe(lambda event: record.append("late"))

    end = world.tracker.subscribe(first)
    world.tracker.subscribe(lambda event: record.append("second"))

    world.tracker.reconfigure(limit=2000)
    world.tracker.reconfigure(limit=1000)

    assert record == ["first", "second", "second", "late"]


def test_a_hook_that_raises_is_logged_once_and_removed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Event] = []

    def bad(event: Event) -> None:
        calls.append(event)
        raise ZeroDivisionError

    world.tracker.subscribe(bad)
    after: list[Event] = []
    world.tracker.subscribe(after.append)

    world.holder("a", 600)
    world.holder("b", 450)

    assert len(calls) == 1
    assert len(after) == 5
    assert logged(caplog, logging.ERROR) == ["a hook, which is removed raised (RoundStarted)"]


@pytest.mark.parametrize("kind", [RoundStarted, VictimAsked, AccountClosing, VictimSettled, RoundEnded])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_hook_leaves_the_tracker_working(kind: type[Event], error: type[BaseException]) -> None:
    """F12: it passes to who runs the round; whatever the moment, the next claim is served."""
    world = World()

    def interrupt(event: Event) -> None:
        if isinstance(event, kind):
            end()
            raise error

    end = world.tracker.subscribe(interrupt)
    holders = [world.holder(f"h{n}", 300) for n in range(3)]

    with pytest.raises(error):
        holders[2].put(200)
    assert_books_balance(world.tracker)
    late = world.tracker.new_account("late")
    late.claim(500)

    assert world.tracker.used <= 1000
    assert holders[0].account.closed
    assert late.used == 500
    assert_books_balance(world.tracker)


# --- what a hook may do -----------------------------------------------------------------------------------------------


def _claim(world: World) -> None:
    world.tracker.new_account().claim(0)
    world.holders[-1].participation.claim(1)
    world.holders[-1].participation.release(1)


def _close_all(world: World) -> None:
    for one in world.holders:
        one.account.close()


def _close_tracker(world: World) -> None:
    world.tracker.close()


def _reconfigure(world: World) -> None:
    world.tracker.reconfigure(limit=world.tracker.limit)


def _look(world: World) -> None:
    assert world.tracker.snapshot().statistics.used == world.tracker.used == world.tracker.statistics().used
    world.tracker.reclaim(0, dry_run=True)


def _over_release(world: World) -> None:
    world.holders[0].account.release(5)


def _subscribe(world: World) -> None:
    world.tracker.subscribe(lambda event: None)


@pytest.mark.parametrize("action", [_claim, _close_all, _close_tracker, _reconfigure, _look, _over_release, _subscribe])
@pytest.mark.parametrize("kind", [RoundStarted, VictimAsked, AccountClosing, VictimSettled, RoundEnded])
@pytest.mark.parametrize("reclaimer", ["inline", "thread"])
def test_a_hook_may_use_the_tracker(
    action: Callable[[World], None], kind: type[Event], reclaimer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F15: P6: no lock is held, no event is delivered within another, and the round ends."""
    world = World(reclaimer=reclaimer)
    depth: list[int] = []
    done: list[Event] = []

    def hook(event: Event) -> None:
        assert not depth
        depth.append(1)
        try:
            if isinstance(event, kind) and not done:
                done.append(event)
                action(world)
        finally:
            depth.pop()

    world.tracker.subscribe(hook)
    for n in range(4):
        world.holder(f"h{n}", 200)

    with suppress(TrackerClosed):
        world.tracker.reclaim(300)

    assert done
    assert "in the middle of a move" not in caplog.text  # what is refused where the lock is held
    assert world.tracker.used <= 300
    world.tracker.close()
    assert_books_balance(world.tracker, 0)


def test_a_round_that_a_hook_starts_is_told_when_the_hook_is_through(world: World) -> None:
    """F50: deep down there is no recursion: events wait their turn."""
    depth = 0
    deepest = 0
    accounts: list[Account] = []

    def claim_more(event: Event) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if isinstance(event, RoundEnded) and len(accounts) < 50:
            accounts.append(world.tracker.new_account())
            with pytest.raises(MemoryReclaimed):
                accounts[-1].claim(2000)
        depth -= 1

    world.tracker.subscribe(claim_more)
    holder = world.holder("a")

    with pytest.raises(MemoryReclaimed):
        holder.put(2000)

    assert deepest == 1
    assert len(accounts) == 50
    assert len(world.told(RoundEnded)) == 51
    assert all(event.outcome is RoundOutcome.DONE for event in world.told(RoundEnded))


def test_a_round_by_hand_within_a_round_is_refused_to_a_hook(world: World) -> None:
    """F15: it would wait for itself; when the round is over, it is allowed."""
    told: list[object] = []

    def ask(event: Event) -> None:
        if isinstance(event, VictimAsked | RoundEnded) and len(told) < 2:
            try:
                told.append(world.tracker.reclaim(100))
            except UsageError as error:
                told.append(str(error))

    world.tracker.subscribe(ask)
    for n in range(6):
        world.holder(f"h{n}", 100)

    world.tracker.reclaim(500)

    assert told[0] == "a round cannot be asked for in the middle of a round"
    assert isinstance(told[1], RoundEnded)
    assert told[1].outcome is RoundOutcome.DONE
    assert world.tracker.used == 100


def test_events_of_several_threads_come_one_at_a_time_in_each(world: World) -> None:
    """Each thread delivers what it finds, and never within another delivery of its own."""
    busy: set[int] = set()
    counted: list[int] = []

    def hook(event: Event) -> None:
        me = threading.get_ident()
        assert me not in busy
        busy.add(me)
        if isinstance(event, OverRelease):
            counted.append(event.excess)
        busy.discard(me)

    world.tracker.subscribe(hook)
    account = world.tracker.new_account()

    def release_too_much() -> None:
        for _ in range(200):
            account.release(1)

    threads = [threading.Thread(target=release_too_much) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(counted) == 800


def test_a_hook_of_a_closed_tracker_gets_nothing_more(world: World) -> None:
    account = world.tracker.new_account()
    world.tracker.close()
    events = len(world.events)

    account.release(5)
    account.close()
    world.tracker.close()

    assert len(world.events) == events
    world.tracker.subscribe(print)()


def test_what_is_no_hook_is_refused() -> None:
    wrong: Any = 5

    with raises(UsageError, "a hook must be callable, not 5"):
        Tracker(1000).subscribe(wrong)
