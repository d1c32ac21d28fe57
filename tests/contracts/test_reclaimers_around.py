"""What every reclaimer promises to those around it: whoever claims, asks for a round by hand, or closes the tracker."""

import threading
from contextlib import suppress
from typing import Any

import pytest

from memquota import CloseKind, MemoryReclaimed, Reclaimed, Tracker, TrackerClosed, UsageError
from memquota.observe import RoundEnded, RoundOutcome
from memquota.testing import ScriptedParticipant
from tests.concurrency.support import InThread, Point
from tests.contracts.reclaimer_worlds import ASYNC, KINDS, TASKS, OwnReclaimer, World


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind = request.param
    assert isinstance(kind, str)
    return kind


# --- whoever claims ---------------------------------------------------------------------------------------------------


class Locked(ScriptedParticipant):
    """A participant with a lock of its own, which it holds while it claims, as queues do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.lock = threading.RLock() if options.get("reentrant") else threading.Lock()
        self.called_in: list[threading.Thread] = []
        super().__init__(*args, **options)

    def put(self, size: int) -> None:
        with self.lock:
            super().put(size)

    def oldest_data(self) -> Any:
        with self.lock:
            self.called_in.append(threading.current_thread())
            return super().oldest_data()

    def reclaim(self, request: Any) -> Any:
        with self.lock:
            self.called_in.append(threading.current_thread())
            return super().reclaim(request)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASYNC])
def test_claiming_while_holding_ones_own_lock_does_not_deadlock(kind: str) -> None:
    """Where the claim runs the round itself, its own participant is not called; elsewhere the lock is waited for."""
    with World(kind) as world:
        locked = Locked(world.tracker.new_account("locked"), world.clock)
        locked.put(300)
        young = world.holder("young", 500)
        world.clock.advance(1)

        claiming = InThread(locked.put, 300)

        if kind == "inline":
            with pytest.raises(MemoryReclaimed):
                claiming.result()
        else:
            claiming.result()
        assert world.ended().outcome is RoundOutcome.DONE
        assert locked.account.closed
        assert not young.account.closed
        # Its own `reclaim` is called all the same, from a thread that can wait for its lock.
        for thread in threading.enumerate():
            if thread.name == "memquota-ask-claimer":
                thread.join(30)
        assert len(locked.requests) == 1
        assert claiming.thread not in locked.called_in


def test_a_reentrant_participant_is_called_by_its_own_claim() -> None:
    with World("inline") as world:
        locked = Locked(world.tracker.new_account("locked"), world.clock, reentrant=True, answer="partial")
        for _ in range(10):
            locked.put(100)

        claiming = InThread(locked.put, 100)

        claiming.result()
        assert locked.participation.used == 750 or locked.participation.used == 700
        assert set(locked.called_in) == {claiming.thread}


# --- rounds by hand ---------------------------------------------------------------------------------------------------


def test_a_round_by_hand_goes_down_to_its_target(kind: str) -> None:
    with World(kind) as world:
        for i in range(4):
            world.holder(f"h{i}", 100)

        result = world.tracker.reclaim(150)

        ended = world.ended()
        assert (ended.outcome, ended.used, ended.target) == (RoundOutcome.DONE, 100, 150)
        assert result == (None if kind in TASKS else ended)
        assert world.asked == ["h0", "h1", "h2"]


def test_rounds_by_hand_from_many_threads_all_end(kind: str) -> None:
    with World(kind) as world:
        for i in range(10):
            world.holder(f"h{i}", 50)

        def by_hand(target: int) -> RoundEnded | None:
            return world.tracker.reclaim(target)

        callers = [InThread(by_hand, target) for target in (400, 300, 200, 100)]

        results = [caller.result() for caller in callers]
        ends = [world.ended() for _ in callers]
        assert world.tracker.used <= 100
        assert {end.outcome for end in ends} == {RoundOutcome.DONE}
        if kind not in TASKS:
            assert sorted(result.target for result in results if result is not None) == [100, 200, 300, 400]


def test_a_round_by_hand_in_the_middle_of_a_round_is_refused_or_left_to_come(kind: str) -> None:
    said: list[object] = []

    def by_hand(holder: ScriptedParticipant, request: object) -> Reclaimed:
        try:
            said.append(world.tracker.reclaim(600))
        except UsageError as error:
            said.append(str(error))
        return Reclaimed.COLLAPSING

    with World(kind) as world:
        world.holder("old", 500, answer=by_hand)

        world.holder("young", 600)

        assert world.ended().outcome is RoundOutcome.DONE
        if kind in TASKS:
            assert said == [None]
            assert world.ended().target == 600
        else:
            assert said == ["a round cannot be asked for in the middle of a round"]


def test_a_round_by_hand_that_nobody_waits_for_any_more_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """F44: also where taking it back fails, as it does without memory."""

    def fail(*_: object) -> None:
        raise MemoryError

    with World("inline") as world:
        old = world.holder("old", 300)
        with monkeypatch.context() as patch:
            patch.setattr(world.tracker._rounds, "relieve", fail)
            patch.setattr(world.tracker._books, "soon", fail)
            with pytest.raises(MemoryError):
                world.tracker.reclaim(0)

        result = world.tracker.reclaim(500)

        assert result is not None
        assert (result.target, result.victims, old.account.closed) == (500, 0, False)
        assert not world.tracker._rounds.demands


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_tracker_can_be_closed_in_the_middle_of_a_round(kind: str) -> None:
    def close(*_: object) -> Reclaimed:
        world.tracker.close()
        return Reclaimed.COLLAPSING

    with World(kind) as world:
        old = world.holder("old", 500, answer=close)
        young = world.holder("young")

        try:
            young.put(600)
        except TrackerClosed:
            pass

        assert world.ended().outcome is RoundOutcome.CANCELLED
        assert world.tracker.closed
        assert world.tracker.used == 0
        assert old.account.close_reason is not None
        assert old.account.close_reason.kind is CloseKind.TRACKER_CLOSED


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASYNC])
def test_a_tracker_can_be_closed_by_another_thread_while_a_participant_is_asked(kind: str) -> None:
    point = Point()

    def slowly(*_: object) -> Reclaimed:
        point.hold()
        return Reclaimed.COLLAPSING

    with World(kind) as world:
        world.holder("old", 500, answer=slowly)
        young = world.holder("young")
        claiming = InThread(young.put, 600)
        point.await_arrival()

        world.tracker.close()

        point.let_go()
        with pytest.raises(TrackerClosed) if kind == "inline" else suppress(TrackerClosed):  # it may be over already
            claiming.result()
        assert world.ended().outcome is RoundOutcome.CANCELLED
        assert world.tracker.used == 0


def test_who_waits_for_a_round_by_hand_is_told_when_the_tracker_is_closed() -> None:
    class Lazy(OwnReclaimer):
        def wake(self, claimer: object) -> None:
            world.tracker.close()

    with World("own", reclaimer=Lazy()) as world:
        with pytest.raises(TrackerClosed, match=r"^the tracker was closed before the round$"):
            world.tracker.reclaim(0)

        assert not world.tracker._rounds.demands


# --- one's own --------------------------------------------------------------------------------------------------------


def test_ones_own_reclaimer_is_attached_once_and_told_of_the_end() -> None:
    own = OwnReclaimer()

    with Tracker(1000, reclaimer=own):
        assert own.calls == ["attach"]

    assert own.calls[:2] == ["attach", "close"]


@pytest.mark.parametrize("name", ["Inline", "Standing", "Task"])
def test_a_reclaimer_serves_one_tracker(name: str) -> None:
    from memquota import reclaimers

    reclaimer = getattr(reclaimers, name)()
    Tracker(1000, reclaimer=reclaimer)

    with pytest.raises(UsageError, match=r"^a reclaimer serves one tracker, and this one does already$"):
        Tracker(1000, reclaimer=reclaimer)
