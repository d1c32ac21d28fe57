"""What users get for their own tests: participants that do as told, and the check of the books."""

import threading
from functools import partial
from typing import Any

import pytest

from memquota import MemoryReclaimed, Participation, Reclaimed, ReclaimRequest, Tracker, TrackerBroken, UsageError
from memquota.observe import VictimOutcome, VictimSettled
from memquota.testing import AsyncScriptedParticipant, FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World, raises

REQUEST = ReclaimRequest("a test", bytes_wanted=100, newest_to_discard=0.0, deadline=0.0)


@pytest.mark.parametrize(
    ("answer", "outcome", "left"),
    [
        ("collapse", VictimOutcome.COLLAPSED, 0),
        ("partial", VictimOutcome.PARTIAL, 100),
        ("nonsense", VictimOutcome.FAILED, 0),
        ("raise", VictimOutcome.FAILED, 0),
        ("nothing", VictimOutcome.STALLED, 0),
        ("trickle", VictimOutcome.STALLED, 0),
    ],
)
def test_a_scripted_participant_answers_as_told(world: World, answer: str, outcome: VictimOutcome, left: int) -> None:
    holder = world.holder("a", 100, 100, 100, answer=answer)

    world.tracker.reclaim(100)

    assert world.told(VictimSettled)[-1].outcome is outcome
    assert world.tracker.used == left
    assert holder.requests[0].bytes_wanted == 200


def test_a_trickle_takes_the_items_one_after_another_to_their_last_byte(world: World) -> None:
    """It releases what it holds and no more, and names the age of what is left."""
    holder = world.holder("a", 2, answer="trickle")
    holder.put(0)
    holder.put(1)

    answers = [holder.reclaim(REQUEST) for _ in range(6)]

    assert answers == [Reclaimed.PARTIAL] * 6
    assert (holder.held, holder.oldest_data()) == (0, None)
    assert world.tracker.used == 0
    assert world.tracker.statistics().counts.over_releases == 0


def test_a_scripted_participant_holds_items(world: World) -> None:
    holder = world.holder("a", 100, 20)

    assert holder.held == 120
    assert holder.get() == 100
    assert holder.held == holder.participation.used == 20
    with pytest.raises(MemoryReclaimed):
        holder.put(2000)


@pytest.mark.parametrize("what", [{"answer": "explode"}, {"age": "explode"}])
def test_an_unknown_script_is_the_test_authors_fault(world: World, what: dict[str, Any]) -> None:
    """It says so where it is asked, and counts as a failure."""
    holder = world.holder("a", 100, **what)

    call = holder.oldest_data if "age" in what else partial(holder.reclaim, REQUEST)
    with raises(UsageError, f"no such {next(iter(what))}: 'explode'"):
        call()

    world.tracker.reclaim(0)
    assert world.tracker.used == 0


def test_a_hanging_participant_waits_to_be_woken(world: World) -> None:
    """And says that it hangs."""
    holder = world.holder("a", 100, answer="hang")
    thread = threading.Thread(target=world.tracker.reclaim, args=(0,))
    thread.start()
    assert holder.hanging.wait(30)
    assert not holder.account.closed

    holder.wake()
    thread.join(30)

    assert not holder.hanging.is_set()
    assert holder.account.closed


async def test_an_async_participant_does_the_same() -> None:
    tracker = Tracker(1000, reclaimer="task")
    clock = FakeClock()
    async with tracker:
        holder = AsyncScriptedParticipant(tracker.new_account("a"), clock, answer="partial")
        holder.put(600)
        answer = await holder.reclaim(REQUEST)

        assert answer is Reclaimed.PARTIAL
        assert holder.held == 0


# --- the check of the books -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1000, "1GiB"])
def test_the_check_passes_where_all_is_well(limit: int | str) -> None:
    world = World(limit)
    world.holder("a", 100)
    account = world.tracker.new_account()
    account.claim(20)

    assert_books_balance(world.tracker)
    assert_books_balance(world.tracker, 120)


def test_the_check_knows_what_is_expected(world: World) -> None:
    world.holder("a", 100)

    with raises(AssertionError, "100 bytes are claimed, not 99"):
        assert_books_balance(world.tracker, 99)


@pytest.mark.breaks_books  # on purpose
def test_the_check_finds_what_does_not_add_up(world: World) -> None:
    holder = world.holder("a", 100)
    node = holder.account._node
    node.used += 1

    with raises(TrackerBroken, "invariant B1 (used is the sum below) does not hold at account 'a'"):
        assert_books_balance(world.tracker)


@pytest.mark.breaks_books  # on purpose
def test_the_check_finds_credit_beyond_the_bound() -> None:
    """P2: |reported - true| is at most 1/32 of the limit."""
    world = World("1GiB")
    holder = world.holder("a", 100_000_000)
    participation: Participation = holder.participation
    participation._credit = 2**25 + 1

    with pytest.raises(TrackerBroken, match=r"bytes are booked, .* are in use: off by more than 1/32 of the limit$"):
        assert_books_balance(world.tracker)


def test_a_participant_of_the_wrong_kind_is_refused_where_it_registers() -> None:
    """An asynchronous one needs a tracker that can await."""
    with pytest.raises(UsageError, match=r"^AsyncScriptedParticipant\.reclaim is a coroutine function"):
        AsyncScriptedParticipant(Tracker(1000).new_account(), FakeClock())
    ScriptedParticipant(Tracker(1000, reclaimer="task").new_account(), FakeClock()).put(5)
