"""Rounds seen from outside: who is asked, for what, in which order, and how it ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import pytest

from memquota import (
    CloseKind,
    CloseReason,
    MemoryReclaimed,
    Participation,
    Reclaimed,
    ReclaimRequest,
    Tracker,
    UsageError,
)
from memquota.observe import RoundEnded, RoundOutcome, RoundStarted, VictimAsked, VictimOutcome, VictimSettled
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World, logged, raises


def names(world: World) -> list[str]:
    """The victims, in the order in which they were asked."""
    return [event.account for event in world.told(VictimAsked)]


# --- when and how far -------------------------------------------------------------------------------------------------


def test_nothing_happens_up_to_the_limit(world: World) -> None:
    holder = world.holder("a", 600)
    holder.put(400)

    assert world.tracker.used == 1000
    assert world.told(RoundStarted) == []
    assert holder.surveys == 0


def test_the_oldest_go_until_usage_is_at_low_water(world: World) -> None:
    """P10: no victim beyond need; who claims last is not the one who is cut off."""
    holders = [world.holder(f"h{n}", 125) for n in range(8)]
    late = world.tracker.new_account("late")

    late.claim(1)

    assert names(world) == ["h0", "h1", "h2"]
    assert [one.account.closed for one in holders] == [True] * 3 + [False] * 5
    assert world.tracker.used == 626
    for event, used in zip(world.told(VictimAsked), (1001, 876, 751), strict=True):
        assert used > 750
        assert event.used == 125
    assert late.used == 1


def test_order_is_by_data_not_by_registration(world: World) -> None:
    """Whose data went and came is not old any more."""
    first, _, third = (world.holder(name, 300) for name in ("first", "second", "third"))
    first.get()
    first.put(300)

    third.put(110)

    assert names(world) == ["second"]
    assert not first.account.closed


@pytest.mark.parametrize(("low_water", "left"), [(None, 700), (0, 0), ("1000B", 1000), (999, 900), (600, 600)])
def test_low_water_is_where_a_round_ends(low_water: int | str | None, left: int) -> None:
    world = World(1000, low_water=low_water)
    for n in range(10):
        world.holder(f"h{n}", 100)
    last = world.holder("last")

    if low_water == 0:
        with pytest.raises(MemoryReclaimed):
            last.put(100)
    else:
        last.put(100)

    assert world.tracker.used == left
    assert world.told(RoundEnded)[-1].target == world.tracker.low_water


def test_only_victims_and_the_next_one_are_looked_at(world: World) -> None:
    """A round costs about its victims, not all participants."""
    holders = [world.holder(f"h{n}", 20) for n in range(50)]

    holders[-1].put(1)

    assert len(names(world)) == 13
    assert sum(one.surveys for one in holders) == 14


def test_usage_may_pass_the_limit_by_what_is_claimed_during_a_round(world: World) -> None:
    """P3: and by no more; the next claim starts no second round of the same tracker."""
    account = world.tracker.new_account("claims meanwhile")

    def claim_meanwhile(one: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        account.claim(300)
        return Reclaimed.COLLAPSING

    world.holder("a", 900, answer=claim_meanwhile)
    world.holder("b", 50).put(60)

    assert world.tracker.statistics().peak == 1310
    assert world.tracker.used == 410
    assert len(world.told(RoundStarted)) == 1


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_a_request_says_what_is_wanted_and_why(world: World) -> None:
    """P12: how much, up to which age, until when."""
    victim = world.holder("victim", 400, answer="partial")
    next_one = world.holder("next", 500)
    world.clock.advance(8)
    before = time.monotonic()

    next_one.put(120)

    after = time.monotonic()
    (request,) = victim.requests
    assert request.why == "holds the oldest data: 10.000 s old"
    assert request.bytes_wanted == 270
    assert request.newest_to_discard == 101.0
    assert before + 1.0 <= request.deadline <= after + 1.0


def test_decisions_are_told(world: World) -> None:
    """P12: who, why, how much was asked and freed, who is next, how it ended."""
    world.holder("victim", 400)
    next_one = world.holder("next", 500)
    world.clock.advance(8)

    next_one.put(120)

    why = "holds the oldest data: 10.000 s old"
    rounds = [
        event for event in world.events if isinstance(event, RoundStarted | VictimAsked | VictimSettled | RoundEnded)
    ]
    assert rounds == [
        RoundStarted(1, "tracker", "its limit is passed", 1020, 1000, 750, 110.0),
        VictimAsked(1, "victim", why, 10.0, 400, (0, 100.0), 270, 1, "next", 9.0, 110.0),
        VictimSettled(1, "victim", VictimOutcome.COLLAPSED, 270, 400, "gave up everything it held", 110.0),
        RoundEnded(1, "tracker", RoundOutcome.DONE, 1, 400, 620, 750, 110.0),
    ]
    assert world.holders[0].account.close_reason == CloseReason(
        CloseKind.RECLAIMED, "victim", f"{why}; gave up everything it held", 110.0
    )


def test_nobody_else_means_everything_may_go(world: World) -> None:
    victim = world.holder("victim", 400, answer="partial")

    world.tracker.reclaim(100)

    assert victim.requests[0].newest_to_discard == inf
    assert victim.requests[0].bytes_wanted == 300


def test_all_participants_of_the_victim_and_below_are_asked_for_their_part(world: World) -> None:
    """The account is the unit; who holds nothing is not asked."""
    parent = world.tracker.new_account("parent")
    child = parent.new_child("child")
    other_parent = world.tracker.new_account("other parent")
    child.add_parent(other_parent)
    first = world.holder(account=parent, answer="partial")
    first.put(100)
    beside = world.holder("", 200, account=parent, answer="partial")
    empty = world.holder("", account=parent)
    below = world.holder("", 300, account=child, answer="partial")
    above = world.holder("", 50, account=other_parent)

    world.tracker.reclaim(500)

    assert [[request.bytes_wanted for request in one.requests] for one in (first, beside, below)] == [[25], [50], [75]]
    assert empty.requests == above.requests == []
    assert world.told(VictimAsked)[0].participants == 3


def test_one_collapse_takes_the_whole_account_and_all_below(world: World) -> None:
    parent = world.tracker.new_account("parent")
    child = parent.new_child("child")
    first = world.holder("", 300, account=parent, answer="partial")
    below = world.holder("", 300, account=child, answer="collapse")
    other = world.holder("other", 300)

    world.tracker.reclaim(550)

    assert [one.account.closed for one in (first, below, other)] == [True, True, False]
    assert world.tracker.used == 300
    with pytest.raises(MemoryReclaimed, match=r"^account 'child' gave up its memory: closed with 'parent': holds the"):
        below.put(1)


def test_who_gives_part_lives_on_as_a_candidate_with_its_new_age(world: World) -> None:
    def discard(one: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        while one.items and one.items[0][0] <= request.newest_to_discard:
            one.get()
        return Reclaimed.PARTIAL

    one = world.holder("one", 100, answer=discard)
    other = world.holder("other", 100, answer=discard)
    for late in (one, other):
        late.put(100)
        world.clock.advance(1)
    last = world.holder("last", 500)

    last.put(101)

    assert names(world) == ["one", "other", "one"]
    assert [event.freed for event in world.told(VictimSettled)] == [100, 100, 100]
    assert not one.account.closed
    assert (one.held, other.held) == (0, 100)


def test_an_account_that_claims_itself_collapses_as_a_victim(world: World) -> None:
    """Its callbacks are what tells; nobody can be asked for a part."""
    account = world.tracker.new_account("protocol")
    reasons: list[CloseReason] = []
    account.on_close(reasons.append)
    account.claim(100)
    partner = world.holder("", 200, account=account, answer="partial")
    world.clock.advance(1)
    world.holder("other", 650).put(60)

    assert account.closed
    assert [reason.kind for reason in reasons] == [CloseKind.RECLAIMED]
    assert len(partner.requests) == 1
    with pytest.raises(MemoryReclaimed):
        account.claim(1)


def test_a_participant_that_takes_over_older_data_says_so(world: World) -> None:
    """Then it is asked for its age before its turn."""
    first, second, third = (world.holder(name, 300) for name in ("first", "second", "third"))
    account = world.tracker.new_account()
    first.items, third.items = third.items, first.items  # moved, with the books as they were
    first.participation.resurvey()
    third.participation.resurvey()

    account.claim(110)

    assert names(world) == ["third"]
    assert [one.surveys for one in (first, second, third)] == [1, 1, 1]


def test_who_took_over_data_and_claims_stands_by_the_age_it_named_last(world: World) -> None:
    """It is not called in its own round, and unknown is not very old."""
    first = world.holder("first", 500)
    taker = world.holder("taker", 300)
    for _ in range(2):
        taker.participation.resurvey()

    taker.put(300)

    assert names(world) == ["first"]
    assert first.account.closed
    assert taker.surveys == 0


def test_an_age_that_it_named_last_can_be_the_oldest(world: World) -> None:
    """Unknown is not young either."""
    taker = world.holder("taker", 300)
    world.holder("second", 500)
    taker.participation.resurvey()

    with pytest.raises(MemoryReclaimed):
        taker.put(300)

    assert names(world) == ["taker"]


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_a_round_that_finds_nobody_says_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """P4: event, log, statistics; the claim is granted."""
    protected = world.tracker.new_account("protected", minimum=5000)

    protected.claim(1100)

    assert protected.used == 1100
    (ended,) = world.told(RoundEnded)
    assert ended == RoundEnded(1, "tracker", RoundOutcome.NOBODY_LEFT, 0, 0, 1100, 750, 100.0)
    assert logged(caplog) == [
        "tracker: round 1 about 'tracker' ends, nobody left to ask: 0 asked, 0 B freed, 1.1 KiB used of 750 B"
    ]
    assert world.tracker.statistics().counts.nobody_left == 1


def test_after_nobody_was_left_a_new_round_waits_for_a_change(world: World) -> None:
    """P4: who is new, limits that change, an end of protection; or usage that grows by a 64th of the limit."""
    protected = world.tracker.new_account("protected", minimum=5000)
    protected.claim(1100)

    def rounds() -> int:
        return len(world.told(RoundStarted))

    for _ in range(10):
        protected.claim(1)
    assert rounds() == 1
    protected.claim(6)  # 16 more than when nobody was left
    assert rounds() == 2
    world.tracker.reconfigure(low_water=500)
    assert rounds() == 3
    newcomer = world.holder("newcomer")
    with pytest.raises(MemoryReclaimed):
        newcomer.put(2)
    assert rounds() == 4
    protected.reconfigure(minimum=0)
    assert rounds() == 5
    assert protected.closed
    assert world.tracker.used == 0


def test_empty_and_new_participants_are_no_corruption(world: World) -> None:
    """P4: however many there are, whenever they come."""
    for n in range(20):
        world.holder(f"empty-{n}", age="none")
    newcomer = world.holder("new")

    with pytest.raises(MemoryReclaimed):
        newcomer.put(1001)

    assert world.tracker.used == 0
    assert sum(one.account.closed for one in world.holders) == 1


def test_what_a_participant_with_credit_gives_back_counts_at_once() -> None:
    """P5, P10: it is no stall that its releases would have been the handle's credit."""
    world = World("1MiB")
    holder = world.holder("a", *[100] * 100, answer="partial")
    assert holder.participation._credit + 500 <= holder.participation._cap

    ended = world.tracker.reclaim(world.tracker.used - 500)

    assert ended is not None
    assert (ended.outcome, ended.victims) == (RoundOutcome.DONE, 1)
    assert 500 <= ended.freed < 5000
    assert holder.held == 9500
    assert not holder.account.closed


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_round_by_hand_goes_down_to_low_water_or_to_a_target(world: World) -> None:
    for n in range(10):
        world.holder(f"h{n}", 100)

    first = world.tracker.reclaim()
    assert first == RoundEnded(1, "tracker", RoundOutcome.DONE, 3, 300, 700, 750, 110.0)
    second = world.tracker.reclaim("0.5KB")
    assert second == RoundEnded(2, "tracker", RoundOutcome.DONE, 2, 200, 500, 500, 110.0)
    assert world.tracker.reclaim(500) == RoundEnded(3, "tracker", RoundOutcome.DONE, 0, 0, 500, 500, 110.0)
    assert world.tracker.reclaim(10**9) == RoundEnded(4, "tracker", RoundOutcome.DONE, 0, 0, 500, 10**9, 110.0)
    last = world.tracker.reclaim(0)
    assert last is not None
    assert (last.used, world.tracker.used) == (0, 0)
    assert [event.why for event in world.told(RoundStarted)] == ["asked for by hand"] * 5


def test_a_round_by_hand_over_the_limit_serves_both(world: World) -> None:
    protected = world.tracker.new_account("protected", minimum=5000)
    protected.claim(2000)

    ended = world.tracker.reclaim(100)

    assert ended is not None
    assert (ended.outcome, ended.used) == (RoundOutcome.NOBODY_LEFT, 2000)


@pytest.mark.parametrize("target", [-1, 1.5, True, "lots", b"1", 2**63])
def test_a_wrong_target_starts_nothing(world: World, target: object) -> None:
    world.holder("a", 100)

    with pytest.raises(UsageError, match=r"^target "):
        world.tracker.reclaim(target)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"^target "):
        world.tracker.reclaim(target, dry_run=True)  # type: ignore[call-overload]

    assert world.told(RoundStarted) == []


def test_a_round_by_hand_is_only_requested_where_a_task_runs_it() -> None:
    """It runs when a task does."""
    world = World(reclaimer="task")
    holder = world.holder("a", 100)

    assert world.tracker.reclaim(0) is None

    assert not holder.account.closed
    assert world.told(RoundStarted) == []


# --- claiming while holding one's own lock ----------------------------------------------------------------------------


class Locked:
    """A participant with a lock that is not reentrant: its owner holds it while it claims."""

    def __init__(self, participation: Participation) -> None:
        self.participation = participation
        self.lock = threading.Lock()
        self.holds = 0
        self.time = 100.0
        self.asked_in: list[str] = []
        self.asked = threading.Event()

    @contextmanager
    def locked(self) -> Iterator[None]:
        if not self.lock.acquire(timeout=30):
            raise AssertionError("a round waits for the lock of the claimer that runs it")
        try:
            yield
        finally:
            self.lock.release()

    def put(self, size: int) -> None:
        with self.locked():
            self.participation.claim(size)
            self.holds += size

    def oldest_data(self) -> float | None:
        with self.locked():
            return self.time if self.holds else None

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        with self.locked():
            self.holds = 0
        self.asked_in.append(threading.current_thread().name)
        self.asked.set()
        return Reclaimed.COLLAPSING


def test_a_claimer_is_not_called_by_its_own_round(world: World) -> None:
    """What it said last stands in; its owner may hold the lock that it needs."""
    older = world.holder("older", 400)
    account = world.tracker.new_account("locked")
    locked = account.register_participant_with(Locked)
    locked.put(100)
    locked.time = 0.0  # would be the oldest, if it were asked
    other = world.holder("other", 100)

    locked.put(500)

    assert names(world) == ["older"]
    assert older.account.closed
    assert world.told(VictimAsked)[0].next_account == "locked"
    assert other.surveys == 0


def test_a_claimer_that_is_the_victim_is_told_afterwards_from_another_thread(world: World) -> None:
    """The claim fails and has claimed nothing; then it is asked, when its lock is free."""
    account = world.tracker.new_account("locked")
    locked = account.register_participant_with(Locked)
    locked.put(400)
    beside = world.holder("", 10, account=account)
    world.holder("younger", 500)

    with pytest.raises(MemoryReclaimed, match=r"^account 'locked' gave up its memory: holds the oldest data"):
        locked.put(200)

    assert locked.asked.wait(30)
    assert locked.asked_in != [threading.current_thread().name]
    assert locked.holds == 0
    assert len(beside.requests) == 1
    assert world.tracker.used == 500


def test_a_claimer_is_spared_in_its_other_accounts_too(world: World) -> None:
    """One object may have several participations; its lock is one."""
    one, other = world.tracker.new_account("one"), world.tracker.new_account("other")
    locked = one.register_participant_with(Locked)
    second = other.register_participant(locked)
    second.claim(500)
    locked.holds = 500
    world.clock.advance(1)

    locked.put(600)

    assert other.closed
    assert not one.closed
    assert locked.asked.wait(30)
    assert locked.asked_in != [threading.current_thread().name]
    assert world.tracker.used == 600


@pytest.mark.parametrize("policy", ["oldest_data", "largest"])
def test_a_claimer_that_is_reentrant_is_called_at_once(policy: str) -> None:
    """As it declares; an attribute that is merely true is no declaration."""
    world = World(policy=policy)
    claimer = world.holder("claimer", 600, answer="partial", reentrant=True)

    claimer.put(600)

    assert len(claimer.requests) == 1
    assert claimer.participation.used == 600
    assert claimer.surveys >= 1
    assert_books_balance(world.tracker, 600)


def test_an_account_that_claims_for_itself_spares_nobody(world: World) -> None:
    """Protocol code holds no participant's lock, as far as the tracker knows."""
    holder = world.holder("a", 600)

    with pytest.raises(MemoryReclaimed):
        holder.account.claim(500)

    assert len(holder.requests) == 1


# --- slices -----------------------------------------------------------------------------------------------------------


def test_an_inline_round_goes_on_with_the_next_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: where a slice ends after every step, many claims share one round."""
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", -1.0)
    holders = [world.holder(f"h{n}", 100) for n in range(10)]
    account = world.tracker.new_account("claims")

    account.claim(1)
    assert not holders[0].account.closed
    claims = 1
    while world.tracker.used > 750:
        account.claim(1)
        claims += 1
        assert claims < 100

    assert names(world) == ["h0", "h1", "h2"]
    assert len(world.told(RoundStarted)) == 1
    account.claim(0)
    assert world.told(RoundEnded) == []
    account.claim(1)
    assert len(world.told(RoundEnded)) == 1
    assert claims > 5


def test_a_round_that_stopped_goes_on_in_another_account_or_by_hand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: it belongs to the tracker, not to who began it; by hand it runs to its end."""
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", -1.0)
    holders = [world.holder(f"h{n}", 100) for n in range(10)]
    first = world.tracker.new_account("first")
    first.claim(1)
    first.close()

    ended = world.tracker.reclaim(0)

    assert ended is not None
    assert (ended.number, ended.outcome, ended.used) == (2, RoundOutcome.DONE, 0)
    assert [event.number for event in world.told(RoundEnded)] == [1, 2]
    assert all(one.account.closed for one in holders)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeClock, FakeClock]:
    """Real time and the processor's time, as a round sees them."""
    real, processor = FakeClock(), FakeClock()
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", 0.003)
    monkeypatch.setattr("memquota.reclaimers._loop.monotonic", real)
    monkeypatch.setattr("memquota.reclaimers._loop.processor_time", processor)
    return real, processor


@pytest.mark.parametrize(("computes", "claims"), [(0.002, 6), (0.0, 1)])
def test_a_slice_is_what_a_round_computes_not_what_it_takes(
    clocks: tuple[FakeClock, FakeClock], computes: float, claims: int
) -> None:
    """P11: where others use the processor too, a round is not cut into pieces for that."""
    real, processor = clocks

    def answer(one: ScriptedParticipant, _: object) -> Reclaimed:
        real.advance(0.5)
        processor.advance(computes)
        return Reclaimed.COLLAPSING

    world = World(1000, low_water=50)
    holders = [world.holder(f"h{n}", 100, answer=answer) for n in range(10)]
    account = world.tracker.new_account("claims", priority=1)
    for _ in range(claims):
        assert world.told(RoundEnded) == []
        account.claim(1)

    assert all(holder.account.closed for holder in holders)
    assert len(world.told(RoundEnded)) == 1
    assert world.tracker.used == claims


def test_the_processors_time_is_looked_at_only_when_enough_real_time_has_gone_by(
    world: World, clocks: tuple[FakeClock, FakeClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a system call, which is more than the rest of a step."""
    looks: list[float] = []

    def look() -> float:
        looks.append(0.0)
        return 0.0

    monkeypatch.setattr("memquota.reclaimers._loop.processor_time", look)
    for n in range(11):
        world.holder(f"h{n}", 100)

    assert len(world.told(VictimAsked)) == 4
    assert len(looks) == 1


def test_rounds_of_a_thread_run_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: it lets others run between slices."""
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", -1.0)
    world = World(reclaimer="thread")
    for n in range(10):
        world.holder(f"h{n}", 100)

    ended = world.tracker.reclaim(0)

    assert ended is not None
    assert (ended.outcome, ended.victims) == (RoundOutcome.DONE, 10)
    world.tracker.close()


def test_a_reclaimer_serves_one_tracker() -> None:
    from memquota.reclaimers import Inline, Standing, Task

    for kind in (Inline, Standing, Task):
        runs = kind()
        Tracker(1000, reclaimer=runs)
        with raises(UsageError, "a reclaimer serves one tracker, and this one does already"):
            Tracker(1000, reclaimer=runs)
