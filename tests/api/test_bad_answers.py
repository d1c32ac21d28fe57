"""Participants that fail or lie when they are asked for memory: they hurt themselves, and nobody else (P5)."""

import gc

import pytest

from memquota import (
    CloseKind,
    CloseReason,
    MemoryReclaimed,
    Participation,
    ParticipationClosed,
    QuotaExceeded,
    Reclaimed,
    ReclaimRequest,
    Tracker,
    UsageError,
)
from memquota.observe import RoundEnded, RoundOutcome, VictimOutcome, VictimSettled
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import World, logged, raises

# --- what they answer -------------------------------------------------------------------------------------------------


def test_who_raises_when_asked_for_memory_collapses_with_all_below(
    any_policy: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F16: P5: its bytes are released, the log names it, the round goes on."""
    world = any_policy
    bad = world.holder("bad", 500, answer="raise")
    child = bad.account.new_child("child")
    next_one = world.holder("next", 450)
    rest = world.tracker.new_account("rest")

    rest.claim(100)

    assert bad.account.closed
    assert child.closed
    assert not rest.closed
    assert not next_one.account.closed
    reason = bad.account.close_reason
    assert reason is not None
    assert reason.kind is CloseKind.FAILED
    text = "raised RuntimeError when it was asked for memory"
    assert reason.text.endswith(f"; participant ScriptedParticipant {text}")
    assert f"participant ScriptedParticipant of account 'bad' {text}" in logged(caplog)
    assert child.close_reason == CloseReason(
        CloseKind.FAILED, "bad", f"closed with 'bad': {reason.text}", world.clock()
    )
    (settled,) = world.told(VictimSettled)
    assert (settled.outcome, settled.freed) == (VictimOutcome.FAILED, 500)
    with pytest.raises(MemoryReclaimed):
        bad.put(1)
    world.tracker.reclaim(100)
    assert next_one.account.closed
    assert_books_balance(world.tracker, 100)


@pytest.mark.parametrize("answer", ["nonsense", None, True, 0, Reclaimed, "partial", NotImplemented], ids=str)
def test_a_wrong_answer_is_a_collapse(world: World, answer: object, caplog: pytest.LogCaptureFixture) -> None:
    """F19: and logged."""
    bad = world.holder("bad", 500, answer=lambda *_: answer)
    other = world.holder("other", 450)

    other.put(60)

    assert bad.account.close_reason is not None
    assert bad.account.close_reason.kind is CloseKind.FAILED
    kind = type(answer).__name__
    text = f"participant ScriptedParticipant of account 'bad' answered {kind} when it was asked for memory"
    assert text in logged(caplog)
    assert world.tracker.used == 510


def test_a_coroutine_of_a_method_that_did_not_look_like_one_is_closed(world: World) -> None:
    """F19: no RuntimeWarning that it was never awaited."""

    async def late(*_: object) -> Reclaimed:
        return Reclaimed.PARTIAL

    bad = world.holder("bad", 500, answer=late)

    world.tracker.reclaim(0)
    gc.collect()

    assert bad.account.close_reason is not None
    assert bad.account.close_reason.text.endswith("answered coroutine when it was asked for memory")


@pytest.mark.parametrize("reclaimer", ["inline", "thread"])
def test_a_coroutine_function_needs_a_reclaimer_that_can_await(reclaimer: str) -> None:
    """F19: said when it is registered; nothing is registered then."""

    class Late:
        def oldest_data(self) -> float | None:
            return None

        async def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            return Reclaimed.COLLAPSING

    with Tracker(1000, reclaimer=reclaimer) as tracker:
        account = tracker.new_account()
        text = "Late.reclaim is a coroutine function: that takes a tracker with reclaimer='task'"

        with raises(UsageError, text) as caught:
            account.register_participant(Late())
        assert isinstance(caught.value, TypeError)
        with raises(UsageError, text):
            account.register_participant_with(lambda _: Late())

        assert tracker.snapshot().accounts[0].holdings == ()


@pytest.mark.parametrize("answer", ["nothing", "trickle"])
def test_who_gives_too_little_twice_in_a_row_collapses(any_policy: World, answer: str) -> None:
    """F20: P4: less than 1/64 of what was asked, though it has older data; the asks are bounded."""
    world = any_policy
    liar = world.holder("liar", 600, answer=answer)
    honest = world.holder("honest", 300)

    world.tracker.reclaim(300)

    assert len(liar.requests) == 2
    assert liar.account.close_reason is not None
    assert liar.account.close_reason.kind is CloseKind.STALLED
    assert liar.account.close_reason.text == "twice in a row it gave back less than 1/64 of what it was asked for"
    assert [settled.outcome for settled in world.told(VictimSettled)] == [
        VictimOutcome.PARTIAL,
        VictimOutcome.PARTIAL,
        VictimOutcome.STALLED,
    ]
    assert honest.requests == []
    assert world.tracker.used == 300
    with pytest.raises(MemoryReclaimed, match=r"gave up its memory: twice in a row"):
        liar.put(1)


def test_giving_a_little_now_and_then_is_no_stall(world: World) -> None:
    """F20: the second time in a row counts, and 1/64 is enough."""
    given = iter([0, 10, 0, 10, 0, 620])

    def give(one: ScriptedParticipant, _: object) -> Reclaimed:
        size = next(given)
        one.items[0] = (one.items[0][0], one.items[0][1] - size)
        one.participation.release(size)
        return Reclaimed.PARTIAL

    one = world.holder("a", 640, answer=give)

    world.tracker.reclaim(0)

    assert [settled.outcome for settled in world.told(VictimSettled)] == [VictimOutcome.PARTIAL] * 6
    assert not one.account.closed
    assert world.tracker.used == 0


def test_the_asks_of_a_round_are_bounded_whatever_a_victim_does(world: World) -> None:
    """F20: F21: who frees what is asked and claims it again at once is found out."""

    def churn(one: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        size = one.get()
        one.items.appendleft((0.0, size))  # as old as ever
        one.participation.claim(size)
        return Reclaimed.PARTIAL

    churner = world.holder("churner", 600, answer=churn)
    other = world.holder("other", 300)

    world.tracker.reclaim(300)

    assert churner.account.closed
    assert len(churner.requests) <= 64
    assert other.requests == []
    assert world.tracker.used == 300


def test_claims_of_others_made_while_a_victim_is_asked_are_granted(world: World) -> None:
    """F9: F21: P3: they are counted, and the round still ends."""
    account = world.tracker.new_account("account")

    def claim_elsewhere(one: ScriptedParticipant, _: object) -> Reclaimed:
        account.claim(70)
        return Reclaimed.COLLAPSING

    holders = [world.holder(f"h{n}", 100, answer=claim_elsewhere) for n in range(10)]

    account.claim(50)

    assert [one.account.closed for one in holders] == [True] * 10
    assert account.used == 50 + 10 * 70
    assert [(ended.outcome, ended.victims, ended.used) for ended in world.told(RoundEnded)] == [
        (RoundOutcome.DONE, 10, 750)
    ]


def test_claims_made_while_a_victim_is_asked_keep_to_the_hard_limit() -> None:
    """F9: P3: what does not fit is refused, and the round goes on."""
    world = World(1000, hard_limit=1100)
    account = world.tracker.new_account("account")
    refused: list[QuotaExceeded] = []

    def claim_elsewhere(one: ScriptedParticipant, _: object) -> Reclaimed:
        try:
            account.claim(101)
        except QuotaExceeded as error:
            refused.append(error)
        return Reclaimed.COLLAPSING

    world.holder("old", 900, answer=claim_elsewhere)

    account.claim(101)

    assert [error.used for error in refused] == [1001]
    assert account.used == world.tracker.used == 101
    assert world.told(RoundEnded)[-1].outcome is RoundOutcome.DONE


def test_newcomers_of_a_round_are_candidates_of_the_next_one(world: World) -> None:
    """F21: who registers another participant each time it is asked does not keep the round going."""
    children: list[ScriptedParticipant] = []

    def multiply(one: ScriptedParticipant, _: object) -> Reclaimed:
        children.append(world.holder("child", 60, answer=multiply))
        return Reclaimed.COLLAPSING

    world.holder("first", 600, answer=multiply)

    world.tracker.reclaim(0)
    assert len(children) == 1
    (ended,) = world.told(RoundEnded)
    assert (ended.outcome, ended.used) == (RoundOutcome.NOBODY_LEFT, 60)

    world.tracker.reclaim(0)
    assert len(children) == 2
    assert children[0].account.closed


@pytest.fixture
def real_time(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """What deadlines go by, as told."""
    clock = FakeClock()
    monkeypatch.setattr("memquota.reclaimers._loop.monotonic", clock)
    return clock


def test_an_answer_that_took_too_long_is_a_failure(world: World, real_time: FakeClock) -> None:
    """F17: in real time, whatever the tracker's clock says; up to the deadline it is in time."""

    def answer(one: ScriptedParticipant, _: object) -> Reclaimed:
        real_time.advance(1.0 if one is in_time else 1.001)
        one.get()
        return Reclaimed.PARTIAL

    in_time, late = world.holder("in time", 100, answer=answer), world.holder("late", 100, answer=answer)
    late.put(100)

    world.tracker.reclaim(0)

    assert not in_time.account.closed
    reason = late.account.close_reason
    assert reason is not None
    assert reason.kind is CloseKind.FAILED
    assert reason.text.endswith("; participant ScriptedParticipant took 1.001 s to answer when it was asked for memory")
    assert in_time.requests[0].deadline == 1.0
    assert late.requests[0].deadline == 2.0


def test_an_age_that_took_too_long_detaches(
    world: World, real_time: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """F14: F17: and one that took long, yet not too long, is worth a line in the log."""
    takes = {"late": 1.001, "slow": 1.0, "quick": 0.05}

    def age(one: ScriptedParticipant) -> float:
        real_time.advance(takes[one.account.name])
        return one.items[0][0]

    late, slow, quick = (world.holder(name, 100, age=age) for name in takes)

    world.tracker.reclaim(0)

    with raises(ParticipationClosed, "participation in account 'late' is over: took 1.001 s to name its age"):
        late.participation.claim(1)
    assert not late.account.closed
    assert slow.account.closed
    assert quick.account.closed
    who = "participant ScriptedParticipant of account"
    assert logged(caplog) == [
        f"tracker: {who} 'late' is detached, 100 B written off: took 1.001 s to name its age",
        f"{who} 'slow' took 1.000 s to name its age",
    ]


# --- claims of the victim ---------------------------------------------------------------------------------------------


def test_what_a_victim_claims_while_it_is_asked_goes_with_it(world: World) -> None:
    """F10: it may be granted, as the account is still open; then it is written off at once."""

    def claim(one: ScriptedParticipant, _: object) -> Reclaimed:
        one.put(50)
        one.account.claim(3)
        one.account.new_child().claim(5)
        return Reclaimed.COLLAPSING

    victim = world.holder("victim", 600, answer=claim)

    world.tracker.reclaim(0)

    assert world.tracker.used == 0
    for claimer in (victim.participation, victim.account):
        with pytest.raises(MemoryReclaimed):
            claimer.claim(1)
        with pytest.raises(MemoryReclaimed):
            claimer.claim(0)
    assert_books_balance(world.tracker, 0)


def test_what_a_partial_victim_claims_while_it_is_asked_counts(world: World) -> None:
    """F10: it lives on."""

    def trade(one: ScriptedParticipant, _: object) -> Reclaimed:
        for _ in range(3):
            one.get()
        one.put(50)
        return Reclaimed.PARTIAL

    victim = world.holder("victim", 200, 200, 200, answer=trade)

    world.tracker.reclaim(100)

    assert victim.participation.used == world.tracker.used == 50
    victim.put(1)
    assert_books_balance(world.tracker, 51)


@pytest.mark.parametrize("limit", [1000, 2**30])
def test_a_collapsed_victim_claims_nothing_more(limit: int) -> None:
    """F10: neither with credit nor without, nor through a clone or a new participation."""
    world = World(limit)
    victim = world.holder("victim", limit // 100)
    clone = victim.participation.clone()
    world.holder("credited", 1, account=victim.account)
    fresh = world.holders[-1]
    world.tracker.reclaim(0)

    for handle in (victim.participation, clone, fresh.participation):
        with pytest.raises(MemoryReclaimed):
            handle.claim(1)
        handle.release(1)
        handle.close()
    with pytest.raises(MemoryReclaimed):
        victim.account.register_participant(victim)
    with pytest.raises(MemoryReclaimed):
        victim.account.new_child()

    assert world.tracker.used == 0


@pytest.mark.parametrize("how", ["account", "participation", "other"])
def test_who_is_closed_by_another_participant_of_the_victim_is_not_asked(world: World, how: str) -> None:
    """F15: the first that is asked may end the others."""

    def end(one: ScriptedParticipant, _: object) -> Reclaimed:
        if how == "account":
            one.account.close()
        elif how == "participation":
            second.participation.destroy()
        else:
            one.participation.destroy()
        return Reclaimed.PARTIAL

    first = world.holder("pair", 100, answer=end)
    second = world.holder("pair", 300, account=first.account, answer="partial")

    world.tracker.reclaim(100)

    assert len(first.requests) == 1
    assert len(second.requests) == (1 if how == "other" else 0)
    assert world.tracker.used == (100 if how == "participation" else 0)
    assert_books_balance(world.tracker)


def test_a_participant_that_is_still_being_made_is_not_asked(world: World) -> None:
    """Its account collapses all the same, when another participant of it does."""
    beside = world.holder("a", 300)

    def make(participation: Participation) -> object:
        participation.claim(100)
        world.tracker.reclaim(50)
        return beside

    beside.account.register_participant_with(make)

    assert len(beside.requests) == 1
    assert beside.account.closed
    assert world.tracker.used == 0
