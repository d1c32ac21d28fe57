"""What the machine found once: programs that failed, in short."""

from __future__ import annotations

import time

import pytest

from memquota import Tracker
from memquota.errors import AccountClosed, MemoryReclaimed, ParticipationClosed
from memquota.participant import Reclaimed, ReclaimRequest
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance

MIB = 1024 * 1024


def test_credit_that_came_with_a_release_ends_with_the_account() -> None:
    """P2, P5: a claim after the collapse fails, whatever the handle had in hand."""
    clock = FakeClock()
    tracker = Tracker(32 * MIB, clock=clock)
    victim = ScriptedParticipant(tracker.new_account("victim"), clock)
    other = ScriptedParticipant(tracker.new_account("other"), clock, reentrant=True)
    other.put(10 * MIB)
    victim.put(20 * MIB)  # above low water: without credit
    other.get()
    victim.participation.release(1 * MIB)  # below it: a part of what came back stays in the handle
    assert_books_balance(tracker, expected=19 * MIB)

    clock.advance(1.0)
    other.put(20 * MIB)

    assert victim.account.closed
    with pytest.raises(MemoryReclaimed):
        victim.participation.claim(1)
    assert_books_balance(tracker, expected=20 * MIB)


def test_who_is_asked_second_has_as_much_time_as_who_was_asked_first() -> None:
    """P5: the slowness of one is not the other's."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock, reclaim_timeout=50.0)
    account = tracker.new_account("victim")
    deadlines: list[float] = []
    answered: list[float] = []

    def slowly(who: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        deadlines.append(request.deadline)
        began = time.monotonic()
        while time.monotonic() == began:
            pass
        answered.append(time.monotonic())
        return Reclaimed.COLLAPSING

    pair = [ScriptedParticipant(account, clock, answer=slowly, reentrant=True) for _ in range(2)]
    pair[0].put(600)
    with pytest.raises(MemoryReclaimed):
        pair[1].put(600)

    assert deadlines[1] >= answered[0] + 50.0


def test_who_is_asked_second_is_not_asked_when_the_first_closed_the_account() -> None:
    """F15: a participant uses the tracker while it is asked."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock)
    account = tracker.new_account("victim")

    def close(who: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        account.close()
        return Reclaimed.PARTIAL

    first = ScriptedParticipant(account, clock, answer=close, reentrant=True)
    second = ScriptedParticipant(account, clock, reentrant=True)
    first.put(600)
    with pytest.raises(AccountClosed):
        second.put(600)

    assert (len(first.requests), len(second.requests)) == (1, 0)


def test_books_balance_after_a_limit_was_lowered_though_credit_is_out() -> None:
    """P2: a lowered limit takes effect on each handle when it comes to the books."""
    clock = FakeClock()
    tracker = Tracker(32 * MIB, clock=clock)
    holders = [ScriptedParticipant(tracker.new_account(), clock) for _ in range(3)]
    for one in holders:
        one.put(100)
    tracker.reconfigure(limit=64 * 1024)
    assert tracker.used - 300 > tracker.limit // 32

    assert_books_balance(tracker, expected=300)


class Interrupt(BaseException):
    """Comes from outside, as Ctrl-C does."""


@pytest.mark.parametrize("by_account", [False, True])
def test_an_interrupt_is_not_hidden_by_what_the_round_gave_back_already(by_account: bool) -> None:
    """P8, F12: on a strict tracker, too; and nothing is claimed."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock, strict=True)
    account = tracker.new_account("claimer")

    def give_all_and_interrupt(who: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        if by_account:
            account.release(600)
        else:
            claimer.participation.release(600)
        raise Interrupt

    victim = ScriptedParticipant(tracker.new_account("victim"), clock, answer=give_all_and_interrupt)
    claimer = ScriptedParticipant(account, clock)
    victim.put(600)

    with pytest.raises(Interrupt):
        (account if by_account else claimer.participation).claim(600)
    assert_books_balance(tracker, expected=600)


def test_a_failed_claim_leaves_the_accounts_own_data_as_old_as_it_was() -> None:
    """P8: else whoever claims and fails grows younger, and others go in its place."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock)
    old = tracker.new_account("old")
    old.claim(200)
    clock.advance(10)

    def interrupt(who: ScriptedParticipant) -> None:
        raise Interrupt

    middle = ScriptedParticipant(tracker.new_account("middle"), clock, age=interrupt)
    middle.put(500)
    clock.advance(10)
    with pytest.raises(Interrupt):
        old.claim(400)
    middle.age = "honest"

    (first, second) = tracker.reclaim(0, dry_run=True).victims
    assert (first.account, first.bytes, first.age) == ("old", 200, 20.0)
    assert second.account == "middle"
    assert_books_balance(tracker, expected=700)


def test_a_claim_whose_participant_is_let_go_of_in_its_own_round_fails() -> None:
    """F22: it dies when the round has done with it, and nobody is left who could hold what was claimed."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock)

    def let_go(who: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        claimers.clear()
        return Reclaimed.COLLAPSING

    victim = ScriptedParticipant(tracker.new_account("victim"), clock, answer=let_go)
    victim.put(600)
    claimers = [ScriptedParticipant(tracker.new_account("claimer"), clock)]
    account, handle = claimers[0].account, claimers[0].participation

    with pytest.raises(ParticipationClosed, match="its participant is gone"):
        handle.claim(600)
    assert not account.closed
    assert_books_balance(tracker, expected=0)


def test_a_handle_that_is_the_only_one_again_is_found_by_the_books() -> None:
    """P2, P5: the credit that it gets is no use of its participation, and ends with it."""
    clock = FakeClock()
    tracker = Tracker(32 * MIB, clock=clock)
    participant = ScriptedParticipant(tracker.new_account(), clock)
    part = participant.participation
    clone = part.clone()
    clone.claim(1)
    clone.release(1)
    del clone

    participant.put(5000)

    assert part.used == 5000
    assert_books_balance(tracker, expected=5000)
    tracker.reclaim(0)
    with pytest.raises(MemoryReclaimed):
        part.claim(1)
