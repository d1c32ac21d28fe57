"""F17: participants that never answer, in rounds that threads run: taken over, abandoned and replaced."""

import gc
import threading
from typing import Any

import pytest

from memquota import CloseKind, ParticipationClosed, Reclaimed, ReclaimRequest, Tracker
from memquota._latch import Latch
from memquota.observe import ParticipationEnded, RoundEnded, RoundOutcome
from memquota.testing import FakeClock, ScriptedParticipant
from tests.concurrency.support import PATIENCE, InThread, held, soon
from tests.contracts.reclaimer_worlds import World
from tests.support.watchdog import run_isolated


@pytest.fixture
def real_time(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time that deadlines are measured by, which stands still."""
    clock = FakeClock()
    monkeypatch.setattr("memquota._rounds.monotonic", clock)
    monkeypatch.setattr("memquota.reclaimers._loop.monotonic", clock)
    return clock


# --- inline: the next claim takes over --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["answer", "age"])
def test_the_next_claim_takes_over_from_a_thread_that_hangs(where: str, real_time: FakeClock) -> None:
    """F17, P4: not before the deadline; then the account collapses, or for its age the participation ends alone."""
    with World("inline", reclaim_timeout=1.0) as world:
        hanging = world.holder("hangs", 500, **{where: "hang"})
        young, other = world.holder("young"), world.holder("other")
        claiming = InThread(young.put, 600)
        assert hanging.hanging.wait(PATIENCE)

        real_time.advance(0.9)
        other.put(1)
        assert world.told(RoundEnded) == []
        real_time.advance(0.2)
        other.put(1)

        assert world.ended().outcome is RoundOutcome.DONE
        assert claiming.thread.is_alive()
        assert world.tracker.used == 602
        if where == "answer":
            assert hanging.account.close_reason is not None
            assert hanging.account.close_reason.kind is CloseKind.FAILED
            assert "did not answer within 1.0 s" in hanging.account.close_reason.text
        else:
            assert not hanging.account.closed
            assert [event.why for event in world.told(ParticipationEnded)] == [
                "oldest_data did not answer within 1.0 s"
            ]
            with pytest.raises(ParticipationClosed):
                hanging.put(1)
        hanging.wake()
        claiming.result()  # it claimed before it hung, and notices nothing
        assert len(world.told(RoundEnded)) == 1


def test_whoever_comes_back_late_does_nothing_more(real_time: FakeClock) -> None:
    """P4: another one goes on with the round; the late answer is not heard, nor is anybody asked twice."""
    with World("inline", reclaim_timeout=1.0) as world:
        hanging = world.holder("hangs", 300, answer="hang")
        next_one = world.holder("next", 300)
        young, other = world.holder("young"), world.holder("other")
        claiming = InThread(young.put, 500)
        assert hanging.hanging.wait(PATIENCE)
        real_time.advance(2)

        with held(next_one, "reclaim") as asking:
            taking_over = InThread(other.put, 1)
            asking.await_arrival()
            hanging.wake()
            claiming.result()
            assert world.told(RoundEnded) == []
            assert world.tracker._rounds.runner is not None
            asking.let_go()
            taking_over.result()

        assert world.ended().outcome is RoundOutcome.DONE
        assert [len(hanging.requests), len(next_one.requests)] == [1, 1]


def test_whoever_comes_back_in_the_moment_of_the_takeover_keeps_the_round(real_time: FakeClock) -> None:
    """P4: an answer that is about to be reported is not lost."""
    with World("inline", reclaim_timeout=1.0) as world:
        hanging = world.holder("hangs", 500, answer="hang")
        young, other = world.holder("young"), world.holder("other")
        rounds = world.tracker._rounds
        claiming = InThread(young.put, 600)
        assert hanging.hanging.wait(PATIENCE)
        real_time.advance(2)

        with held(rounds, "_take") as taking:
            taking_over = InThread(other.put, 1)
            taking.await_arrival()  # it holds the lock, and believes that the other one hangs
            hanging.wake()
            soon(lambda: rounds.runner is not None and rounds.runner.call is None)
            taking.let_go()
            taking_over.result()
        claiming.result()

        assert world.ended().outcome is RoundOutcome.DONE
        assert (rounds.round, rounds.runner) == (None, None)
        assert hanging.account.closed


def test_a_round_by_hand_takes_over_too(real_time: FakeClock) -> None:
    with World("inline", reclaim_timeout=1.0) as world:
        hanging = world.holder("hangs", 500, answer="hang")
        claiming = InThread(world.holder("young").put, 600)
        assert hanging.hanging.wait(PATIENCE)
        by_hand = InThread(lambda: world.tracker.reclaim(300))
        real_time.advance(2)

        result = by_hand.result()

        assert result is not None
        assert (result.outcome, result.target) == (RoundOutcome.DONE, 300)
        assert hanging.account.closed
        hanging.wake()
        claiming.thread.join(PATIENCE)
        assert not claiming.thread.is_alive()


# --- the thread reclaimer: abandoned and replaced ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["answer", "age"])
def test_a_worker_that_hangs_is_abandoned_and_replaced(where: str) -> None:
    """F17, P4: its account collapses, or for its age the participation ends alone; rounds go on."""
    with World("thread", reclaim_timeout=0.1) as world:
        hanging = world.holder("hangs", 300, **{where: "hang"})
        second = world.holder("second", 300)
        world.holder("third", 600)  # 1200: it takes both

        assert world.ended().outcome is RoundOutcome.DONE

        assert hanging.hanging.is_set()
        assert second.account.closed
        assert hanging.account.closed is (where == "answer")
        hanging.hanging.clear()
        for i in range(3):
            world.holder(f"later{i}", 600)
            assert world.ended().outcome is RoundOutcome.DONE
        hanging.wake()


def test_many_that_hang_are_left_behind_one_after_the_other() -> None:
    with World("thread", reclaim_timeout=0.05) as world:
        hanging = [world.holder(f"h{i}", 100, answer="hang") for i in range(4)]
        world.holder("young", 700)

        assert world.ended().outcome is RoundOutcome.DONE

        assert [holder.account.closed for holder in hanging] == [True] * 4
        for holder in hanging:
            holder.wake()


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("end", ["close", "drop"])
def test_the_threads_end_with_the_tracker(end: str, hangs: bool) -> None:
    """P7: closed or dropped; one that hangs ends when it comes back."""
    before = set(threading.enumerate())
    clock = FakeClock()
    tracker = Tracker(1000, reclaimer="thread", clock=clock, reclaim_timeout=0.05 if hangs else 30)
    ended = threading.Event()
    tracker.subscribe(lambda event: ended.set() if isinstance(event, RoundEnded) else None)
    old = ScriptedParticipant(tracker.new_account(), clock, answer="hang" if hangs else "collapse")
    old.put(600)
    young = ScriptedParticipant(tracker.new_account(), clock)
    young.put(600)
    assert ended.wait(PATIENCE)

    if end == "close":
        tracker.close()
    else:
        old.account = young.account = None  # type: ignore[assignment]  # which keep the tracker
        del tracker
        gc.collect()

    old.wake()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_two_claims_at_once_start_one_pair_of_threads() -> None:
    with World("thread") as world:
        world.holder("old", 500)
        young, other = world.holder("young"), world.holder("other")

        with held(world.tracker._rounds.reclaimer, "_start") as starting:
            first = InThread(young.put, 600)
            starting.await_arrival()
            other.put(1)
            starting.let_go()
            first.result()

        assert world.ended().outcome is RoundOutcome.DONE
        names = [thread.name for thread in threading.enumerate()]
        assert (names.count("memquota-watch"), names.count("memquota-reclaim")) == (1, 1)


def test_closing_ends_the_thread_that_watches_over_one_that_hangs(real_time: FakeClock) -> None:
    """F17: it does not wait for the deadline; the other one ends when it comes back."""

    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    with World("thread", reclaim_timeout=0.2) as world:
        hanging = world.holder("hangs", 500, answer="hang")
        world.holder("young", 600)
        assert hanging.hanging.wait(PATIENCE)

        world.tracker.close()

        soon(lambda: "memquota-watch" not in names())
        assert "memquota-reclaim" in names()
        hanging.wake()
        soon(lambda: "memquota-reclaim" not in names())


def test_a_thread_reclaimer_that_is_closed_starts_no_threads_any_more() -> None:
    """P7: nobody would end them. A claim of another thread may have found a round to be due just before."""
    with World("thread") as world:
        world.tracker.close()

        world.tracker._rounds.reclaimer.wake(None)

        assert not {"memquota-watch", "memquota-reclaim"} & {thread.name for thread in threading.enumerate()}


def test_where_no_thread_can_be_started_claims_go_on_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with World("thread") as world:
        world.holder("old", 500)
        young = world.holder("young")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            young.put(600)

        assert world.tracker.used == 1100
        assert "the start of a thread raised (memquota-reclaim)" in caplog.text
        young.put(1)
        assert world.ended().outcome is RoundOutcome.DONE


def test_a_claim_that_is_interrupted_between_the_two_threads_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F42: nobody would ever end the first one; the next claim starts both anew."""

    def interrupt(thread: threading.Thread) -> None:
        if thread.name == "memquota-watch":
            raise KeyboardInterrupt
        start(thread)

    start = threading.Thread.start
    with World("thread") as world:
        world.holder("old", 500)
        young = world.holder("young")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupt)
            with pytest.raises(KeyboardInterrupt):
                young.put(600)

        soon(lambda: "memquota-reclaim" not in {thread.name for thread in threading.enumerate()})
        young.put(600)
        assert world.ended().outcome is RoundOutcome.DONE


@pytest.mark.parametrize("threads", [0, 1])
def test_where_no_thread_can_be_started_a_round_by_hand_is_run_by_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    """P4: it waits for nobody who never comes, also where one of the two threads can be had; and it says so once."""
    start = threading.Thread.start
    left = [threads]

    def refuse(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    def asks() -> RoundEnded | None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        return world.tracker.reclaim(0)

    with World("thread") as world:
        world.holder("old", 500)
        asking = InThread(asks)

        ended = asking.result()

        assert ended is not None
        assert (ended.outcome, ended.freed) == (RoundOutcome.DONE, 500)
        assert len(caplog.messages) == 1 + caplog.text.count("memquota.reclaim")
        monkeypatch.undo()
        soon(lambda: "memquota-reclaim" not in {thread.name for thread in threading.enumerate()})


def test_a_reclaim_that_is_left_for_later_where_no_thread_can_be_started_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with World("inline") as world:
        only = world.holder("only", 600)
        monkeypatch.setattr(threading.Thread, "start", refuse)

        with pytest.raises(Exception, match="gave up its memory"):
            only.put(600)

        assert "the start of a thread raised (memquota-ask-claimer)" in caplog.text


def test_what_ends_programs_in_a_reclaim_that_is_made_later_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def interrupted(*_: object) -> Reclaimed:
        raise KeyboardInterrupt

    with World("inline") as world:
        only = world.holder("only", 600, answer=interrupted)

        with pytest.raises(Exception, match="gave up its memory"):
            only.put(600)

        for thread in threading.enumerate():
            if thread.name == "memquota-ask-claimer":
                thread.join(PATIENCE)
    assert "a participant raised (asked after its claim)" in caplog.text


def wait_for_a_round_by_hand() -> None:
    tracker = Tracker("1MiB", reclaimer="thread", reclaim_timeout=3600.0)
    account = tracker.new_account()
    waits_long = threading.Event()
    wait = Latch.wait

    def noted(latch: Latch, seconds: float | None) -> bool:
        if seconds is not None and seconds > 60.0:
            waits_long.set()
        return wait(latch, seconds)

    class Patient:
        def oldest_data(self) -> float:
            return 0.0

        def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            assert waits_long.wait(20.0)  # until who asked has found that somebody runs the round
            return Reclaimed.COLLAPSING

    patient = Patient()
    handle = account.register_participant(patient)
    handle.claim(1000)
    Latch.wait = noted  # type: ignore[method-assign, assignment]

    ended = tracker.reclaim(0)
    assert ended is not None
    assert (ended.victims, tracker.used, handle.closed) == (1, 0, True)
    tracker.close()


def test_who_asked_for_a_round_is_let_go_when_it_ends() -> None:
    """P4: and not only when he looks again, an eighth of the timeout later."""
    run_isolated(wait_for_a_round_by_hand, timeout=30.0)
