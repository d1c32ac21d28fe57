"""Participants that use the tracker where they are asked, or are interrupted there."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from memquota import (
    Reclaimed,
    ReclaimRequest,
    Tracker,
    UsageError,
)
from memquota.observe import RoundEnded, RoundOutcome
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World

# --- what is no error of theirs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("where", ["age", "answer", "policy"])
def test_what_ends_a_program_passes_to_whoever_runs_the_round(error: type[BaseException], where: str) -> None:
    """F12: its claim has claimed nothing, nobody stays half asked, and the next round runs."""

    def interrupt(*_: object) -> Any:
        raise error("stop")

    def policy(candidate: object) -> Any:
        return interrupt() if where == "policy" and interrupting else candidate.age  # type: ignore[attr-defined]

    interrupting = True
    world = World(policy=policy if where == "policy" else "oldest_data")
    first = world.holder("first", 600)
    if where == "age":
        first.age = interrupt
    elif where == "answer":
        first.answer = interrupt
    second = world.holder("second", 300)
    account = world.tracker.new_account("third")
    account.claim(1)
    account.release(1)

    for claimer in (second.participation, account):
        before = world.books()
        with pytest.raises(error):
            claimer.claim(200)
        assert world.books() == before
    with pytest.raises(error):
        world.tracker.reclaim(0)
    assert {ended.outcome for ended in world.told(RoundEnded)} == {RoundOutcome.CANCELLED}

    interrupting = False
    first.age, first.answer = "honest", "collapse"
    second.put(200)

    assert first.account.closed
    assert second.participation.used == 500
    assert world.told(RoundEnded)[-1].outcome is RoundOutcome.DONE


def test_a_round_whose_interruption_is_interrupted_is_run_by_nobody() -> None:
    """F12: a second Ctrl-C, here while the time is looked at to end the round; the next claim starts another."""
    coming = [False]

    def time() -> float:
        if coming[0]:
            coming[0] = False
            raise KeyboardInterrupt("the second")
        return clock()

    def interrupt(*_: object) -> Any:
        coming[0] = True
        raise KeyboardInterrupt("the first")

    clock = FakeClock()
    tracker = Tracker(1000, clock=time)
    first = ScriptedParticipant(tracker.new_account(), clock, answer=interrupt)
    second = ScriptedParticipant(tracker.new_account(), clock)
    first.put(600)
    with pytest.raises(KeyboardInterrupt, match="the second"):
        second.put(500)
    assert_books_balance(tracker, 600)

    first.answer = "collapse"
    second.put(500)

    assert first.account.closed
    assert_books_balance(tracker, 500)


# --- using the tracker where they are asked ---------------------------------------------------------------------------


def _claim(one: ScriptedParticipant) -> None:
    one.participation.claim(1)


def _release_all(one: ScriptedParticipant) -> None:
    one.participation.release(10_000)


def _close_account(one: ScriptedParticipant) -> None:
    one.account.close()


def _destroy(one: ScriptedParticipant) -> None:
    one.participation.destroy()


def _clone(one: ScriptedParticipant) -> None:
    one.participation.clone().claim(1)


def _open_and_claim(one: ScriptedParticipant) -> None:
    with one.account.tracker.new_account().claimed(500):
        pass


def _register_again(one: ScriptedParticipant) -> None:
    one.account.register_participant(one).close()


def _dry_run(one: ScriptedParticipant) -> None:
    age, one.age = one.age, "honest"
    try:
        one.account.tracker.reclaim(0, dry_run=True)
    finally:
        one.age = age


def _reconfigure(one: ScriptedParticipant) -> None:
    one.account.reconfigure(limit=10, minimum=1, priority=5)
    one.account.reconfigure(limit=None)
    one.account.tracker.reconfigure(limit=900, hard_limit=5000)
    one.account.tracker.reconfigure(limit=1000)


def _look(one: ScriptedParticipant) -> None:
    tracker = one.account.tracker
    assert tracker.used == tracker.snapshot().statistics.used == tracker.statistics().used
    assert one.account.used == one.participation.used


def _resurvey(one: ScriptedParticipant) -> None:
    one.participation.resurvey()


def _move(one: ScriptedParticipant) -> None:
    one.account.add_parent(one.account.tracker.new_account())


ACTIONS = [
    _claim,
    _release_all,
    _close_account,
    _destroy,
    _clone,
    _open_and_claim,
    _register_again,
    _dry_run,
    _reconfigure,
    _look,
    _resurvey,
    _move,
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("where", ["age", "answer", "byte_seconds"])
@pytest.mark.parametrize("reclaimer", ["inline", "thread"])
def test_participants_may_use_the_tracker(
    action: Callable[[ScriptedParticipant], None], where: str, reclaimer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F15: P6: no deadlock, the round ends, and the books balance."""
    world = World(policy="byte_seconds" if where == "byte_seconds" else "oldest_data", reclaimer=reclaimer)
    asked: list[str] = []

    def act(one: ScriptedParticipant) -> None:
        asked.append(where)
        if len(asked) < 5:
            action(one)

    def age(one: ScriptedParticipant) -> float | None:
        act(one)
        return one.items[0][0] if one.items else None

    def answer(one: ScriptedParticipant, _: ReclaimRequest) -> Reclaimed:
        act(one)
        return Reclaimed.COLLAPSING

    odd = world.holder("odd", 400, age=age if where == "age" else "honest")
    if where == "answer":
        odd.answer = answer
    if where == "byte_seconds":

        def area(now: float) -> float:
            act(odd)
            return 1e9

        odd.byte_seconds = area  # type: ignore[attr-defined]
    other = world.holder("other", 300)

    world.tracker.reclaim(0)
    world.tracker.reclaim(0)

    assert asked
    assert "in the middle of a move" not in caplog.text  # what is refused where the lock is held
    assert other.account.closed
    assert world.tracker.used == odd.account.used
    world.tracker.close()
    assert_books_balance(world.tracker, 0)


def test_a_round_cannot_be_asked_for_in_the_middle_of_a_round(world: World) -> None:
    """F15: it would wait for itself; the participant is told, and hurts only itself."""
    told: list[UsageError] = []

    def ask_for_more(one: ScriptedParticipant, _: ReclaimRequest) -> Reclaimed:
        try:
            world.tracker.reclaim(0)
        except UsageError as error:
            told.append(error)
        return Reclaimed.COLLAPSING

    world.holder("a", 400, answer=ask_for_more)

    world.tracker.reclaim(0)

    assert [str(error) for error in told] == ["a round cannot be asked for in the middle of a round"]
    assert world.tracker.used == 0
