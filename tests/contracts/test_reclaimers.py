"""What every reclaimer promises: inline, thread, one's own, and a task on asyncio or trio."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from memquota import Account, CloseKind, ParticipationClosed, Reclaimed, UsageError
from memquota.observe import ParticipationEnded, RoundOutcome, VictimOutcome
from memquota.testing import ScriptedParticipant
from tests.concurrency.support import InThread, Point
from tests.contracts.reclaimer_worlds import ASYNC, KINDS, PATIENCE, SYNCHRONOUS, TASKS, World


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind = request.param
    assert isinstance(kind, str)
    return kind


# --- a round ----------------------------------------------------------------------------------------------------------


def test_a_round_asks_the_oldest_first_until_usage_is_at_low_water(kind: str) -> None:
    """P4, P10: it ends there, and without the last victim it would not have been reached."""
    with World(kind) as world:
        holders = [world.holder(f"h{i}", 200) for i in range(5)]

        holders[4].put(100)
        ended = world.ended()

        assert (ended.outcome, ended.victims, ended.used) == (RoundOutcome.DONE, 2, 700)
        assert world.asked == ["h0", "h1"]
        assert [holder.account.closed for holder in holders] == [True, True, False, False, False]
        assert [request.bytes_wanted for holder in holders for request in holder.requests] == [200, 150]


def test_a_round_ends_when_there_is_nobody_left_to_ask(kind: str) -> None:
    """P4: and says so; the next one looks again when there is somebody new."""
    with World(kind) as world:
        world.tracker.reconfigure(low_water=0)
        only = world.holder("only", 600, answer="nothing")
        account = world.tracker.new_account("protected", minimum=5000)

        account.claim(500)

        assert world.ended().outcome is RoundOutcome.NOBODY_LEFT
        assert world.settled == {"only": VictimOutcome.STALLED}
        assert only.account.closed
        world.holder("new", 400)
        account.claim(200)
        assert world.ended().outcome is RoundOutcome.NOBODY_LEFT
        assert world.asked[-1] == "new"


def test_who_gives_part_lives_and_is_asked_again_when_it_is_the_oldest_again(kind: str) -> None:
    with World(kind) as world:
        giver = world.holder("giver", 0, answer="partial")
        for _ in range(5):
            world.clock.advance(1)
            giver.put(100)
        world.holder("other", 500)

        world.holder("claims", 100)

        assert world.ended().outcome is RoundOutcome.DONE
        assert (giver.held, world.tracker.used) == (100, 700)
        assert world.settled == {"giver": VictimOutcome.PARTIAL}


def test_rounds_follow_each_other(kind: str) -> None:
    with World(kind) as world:
        for i in range(30):
            world.holder(f"h{i}", 600)
            if i:
                assert world.ended().used == 600

        assert world.asked == [f"h{i}" for i in range(29)]


# --- participants that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["raise", "nonsense"])
def test_a_reclaim_that_fails_collapses_its_account_and_the_round_goes_on(
    kind: str, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F16: raising; F19: answering what is no answer. P5: whoever claimed notices nothing."""
    with World(kind) as world:
        bad = world.holder("bad", 200, answer=answer)
        second = world.holder("second", 300)
        third = world.holder("third", 300)

        world.holder("claims", 300)

        assert world.ended().outcome is RoundOutcome.DONE
        assert world.settled == {"bad": VictimOutcome.FAILED, "second": VictimOutcome.COLLAPSED}
        assert second.account.closed
        assert not third.account.closed
        assert bad.account.close_reason is not None
        assert bad.account.close_reason.kind is CloseKind.FAILED
        assert type(bad).__name__ in bad.account.close_reason.text
        assert "'bad'" in caplog.text


@pytest.mark.parametrize("age", ["raise", "nan", "text", "huge"])
def test_an_age_that_is_none_makes_nobody_else_suffer(kind: str, age: str) -> None:
    """F11, F13: raising ends that participation alone; nonsense is very old."""
    with World(kind) as world:
        bad = world.holder("bad", 400, age=age)
        good = world.holder("good", 300)

        world.holder("claims", 400)

        assert world.ended().outcome is RoundOutcome.DONE
        assert not good.account.closed
        if age == "raise":
            assert not bad.account.closed
            assert [event.account for event in world.told(ParticipationEnded)] == ["bad"]
            with pytest.raises(ParticipationClosed):
                bad.put(1)
        else:
            assert bad.account.closed


@pytest.mark.parametrize("answer", ["nothing", "trickle"])
def test_who_promises_and_frees_next_to_nothing_collapses_after_a_few_asks(kind: str, answer: str) -> None:
    """F20: the number of asks is bounded."""
    with World(kind) as world:
        liar = world.holder("liar", 500, answer=answer)

        world.holder("claims", 600)

        assert world.ended().outcome is RoundOutcome.DONE
        assert len(liar.requests) == 2
        assert liar.account.close_reason is not None
        assert liar.account.close_reason.kind is CloseKind.STALLED


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASYNC])
def test_a_coroutine_where_a_plain_answer_was_promised_is_closed(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """F19: no RuntimeWarning that it was never awaited; where coroutines are welcome it is simply awaited."""
    ran = []

    async def answer() -> Reclaimed:
        ran.append(True)
        return Reclaimed.COLLAPSING

    with World(kind) as world:
        world.holder("changed its mind", 500, answer=lambda *_: answer())

        world.holder("claims", 600)

        assert world.ended().outcome is RoundOutcome.DONE
        awaits = kind in TASKS
        assert world.settled == {"changed its mind": VictimOutcome.COLLAPSED if awaits else VictimOutcome.FAILED}
        assert ran == ([True] if awaits else [])
        assert ("answered coroutine" in caplog.text) is not awaits


@pytest.mark.parametrize("kind", ASYNC)
def test_a_plain_answer_where_a_coroutine_was_promised_is_taken(kind: str) -> None:
    """F19: the reverse."""
    with World(kind) as world:
        plain = world.holder("plain", 500)
        plain.reclaim = lambda request: Reclaimed.COLLAPSING  # type: ignore[method-assign]

        world.holder("claims", 600)

        assert world.ended().outcome is RoundOutcome.DONE
        assert world.settled == {"plain": VictimOutcome.COLLAPSED}


@pytest.mark.parametrize("kind", SYNCHRONOUS)
def test_who_can_only_be_awaited_is_refused_where_nobody_awaits(kind: str) -> None:
    class Awaited:
        def oldest_data(self) -> None: ...

        async def reclaim(self, request: object) -> Reclaimed:
            return Reclaimed.COLLAPSING

    with World(kind) as world:
        account = world.tracker.new_account("a")

        with pytest.raises(UsageError, match="that takes a tracker with reclaimer='task'"):
            account.register_participant(Awaited())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TASKS or kind in ASYNC])
def test_who_hangs_collapses_and_the_round_goes_on(kind: str) -> None:
    """F17, P4: where its own thread runs the round, the next claim of another one takes it over."""
    with World(kind, reclaim_timeout=0.1) as world:
        hanging = world.holder("hangs", 300, answer="hang")
        second = world.holder("second", 300)
        young, other = world.holder("young"), world.holder("other")

        claiming = InThread(young.put, 600)

        assert hanging.hanging.wait(PATIENCE)
        while kind in ("inline", "own") and not hanging.account.closed:
            other.put(1)
            threading.Event().wait(0.01)
        assert world.ended().outcome is RoundOutcome.DONE
        assert world.settled == {"hangs": VictimOutcome.FAILED, "second": VictimOutcome.COLLAPSED}
        assert second.account.closed
        hanging.wake()
        claiming.result()
        assert young.participation.used == 600


def test_participants_may_use_the_tracker_while_they_are_asked(kind: str) -> None:
    """F15: P6: no lock is held then, neither for the age nor for the answer."""
    opened: list[Account] = []

    def use(holder: ScriptedParticipant, *request: object) -> Any:
        account = world.tracker.new_account("opened", minimum=1000)
        account.claim(1)
        opened.append(account)
        holder.participation.clone().close()
        world.tracker.reconfigure(limit=1000, low_water=700)
        assert world.tracker.statistics().limit == 1000
        return Reclaimed.COLLAPSING if request else holder.items[0][0]

    with World(kind) as world:
        old = world.holder("old", 500, age=use, answer=use)

        world.holder("young", 600)

        assert world.ended().outcome is RoundOutcome.DONE
        assert world.settled == {"old": VictimOutcome.COLLAPSED}
        assert old.account.closed
        assert world.tracker.used == 600 + len(opened) >= 602


def test_who_dies_before_it_is_asked_is_passed_over(kind: str) -> None:
    """F22: its bytes are released once, and no more is taken than is needed then."""
    doomed: list[ScriptedParticipant] = []

    def let_go(holder: ScriptedParticipant) -> float:
        doomed.clear()
        return holder.items[0][0]

    with World(kind) as world:
        account = world.tracker.new_account("doomed")
        doomed.append(ScriptedParticipant(account, world.clock))
        doomed[0].put(200)
        second = world.holder("second", 300, age=let_go)
        third = world.holder("third", 300)

        world.holder("claims", 300)

        assert world.ended().outcome is RoundOutcome.DONE
        assert (world.tracker.used, second.account.closed, third.account.closed) == (600, True, False)
        assert not account.closed


# --- exceptions that end programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["age", "answer"])
@pytest.mark.parametrize("kind", SYNCHRONOUS)
def test_what_ends_programs_passes_through_to_whoever_runs_the_round(
    kind: str, where: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """F12: the claim that ran it claimed nothing, the state is consistent, and the next round runs."""

    def interrupted(*_: object) -> Any:
        raise error

    with World(kind) as world:
        old = world.holder("old", 500, **{where: interrupted})
        young = world.holder("young")

        if kind == "inline":
            with pytest.raises(error):
                young.put(600)
            assert young.participation.used == 0
        else:
            young.put(600)
            if kind == "own":
                assert type(world.reclaimer.raised.get(timeout=30)) is error

        assert world.ended().outcome is RoundOutcome.CANCELLED
        assert not old.account.closed
        old.age, old.answer = "honest", "collapse"
        young.put(600 if kind == "inline" else 1)
        assert world.ended().outcome is RoundOutcome.DONE
        assert world.settled["old"] is VictimOutcome.COLLAPSED
        assert ("thread reclaimer" in caplog.text) is (kind == "thread")


# --- slow participants ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["age", "answer"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASYNC])
def test_while_a_participant_takes_its_time_others_claim(kind: str, where: str) -> None:
    """F14: it is called without the lock."""
    point = Point()

    def slowly(holder: ScriptedParticipant, *_: object) -> Any:
        point.hold()
        return holder.items[0][0] if where == "age" else Reclaimed.COLLAPSING

    with World(kind) as world:
        world.holder("slow", 500, **{where: slowly})
        young, third = world.holder("young"), world.holder("third")
        claiming = InThread(young.put, 600)
        point.await_arrival()

        third.put(10)
        third.get()
        third.participation.close()
        world.tracker.new_account("new").close()
        world.tracker.statistics()

        point.let_go()
        claiming.result()
        assert world.ended().outcome is RoundOutcome.DONE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASYNC])
def test_a_participant_that_is_slow_to_name_its_age_is_named(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F14: in a warning."""
    with World(kind) as world:
        monkeypatch.setattr("memquota.reclaimers._loop.monotonic", world.clock)

        def slowly(holder: ScriptedParticipant) -> float:
            world.clock.advance(0.1)
            return holder.items[0][0]

        world.holder("slow", 500, age=slowly)

        world.holder("claims", 600)

        assert world.ended().outcome is RoundOutcome.DONE
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["participant ScriptedParticipant of account 'slow' took 0.100 s to name its age"]
