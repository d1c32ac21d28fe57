"""Who says it gives and does not: twice too little, or no smaller after 64 asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memquota._core.events import CloseKind, CloseReason, RoundOutcome, VictimOutcome, VictimSettled
from memquota._core.ledger import Counts
from memquota._core.steps import Ask
from tests.core.support import Member, account, events_of, give, ledger_of, member, next_ask, round_about, run

STALLED = "twice in a row it gave back less than 1/64 of what it was asked for"


def test_who_gives_nothing_twice_in_a_row_collapses() -> None:
    """P5, F20: it is asked twice, then it goes."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, age=90.0)
    who.answer = give(who, 0)

    ended = run(round_about(ledger), [who])

    assert len(who.asks) == 2
    assert who.holding.node.ended == CloseReason(CloseKind.STALLED, "who", STALLED, 100.0)
    assert (ended.outcome, ended.victims, ended.freed) == (RoundOutcome.DONE, 3, 1100)
    settled = events_of(ledger, VictimSettled)
    assert [(event.outcome, event.freed) for event in settled[:2]] == [(VictimOutcome.PARTIAL, 0)] * 2
    assert settled[2] == VictimSettled(1, "who", VictimOutcome.STALLED, 1100, 1100, STALLED, 100.0)
    assert ledger.counts == Counts(rounds=1, victims=3, partial=2, stalled=1, bytes_reclaimed=1100)


def test_who_gives_a_byte_at_a_time_collapses() -> None:
    """F20: a trickle is no progress."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    who.answer = give(who, 1)

    run(round_about(ledger), [who])
    assert len(who.asks) == 2
    assert not who.holding.live


@pytest.mark.parametrize(("given", "enough"), [(63, False), (64, True), (65, True)])
def test_a_64th_of_what_was_wanted_is_enough(given: int, enough: bool) -> None:
    """P5: exactly so much is progress."""
    ledger = ledger_of(100_000)
    who = member(ledger, "who", 75_000 + 4096)
    one = round_about(ledger)
    ask = next_ask(one, [who])
    assert ask.wanted == 4096
    who.release(given)

    one.settle(ask, collapsing=False, failure=None, now=100.0)

    assert (who.holding.node.too_little is None) is enough


def test_too_little_once_is_forgiven_when_enough_comes_then() -> None:
    """F20: twice in a row."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    gifts = iter([0, 100, 0, 100, 0, 100, 50])

    def give_next(ask: Ask) -> str:
        who.release(next(gifts))
        return "partial"

    who.answer = give_next

    ended = run(round_about(ledger), [who])

    assert who.holding.live
    assert (ended.outcome, ended.used) == (RoundOutcome.DONE, 750)
    assert len(who.asks) == 7


def test_too_little_is_remembered_from_one_round_to_the_next() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1001)
    who.answer = give(who, 0)
    for _ in range(2):
        one = round_about(ledger)
        ask = next_ask(one, [who])
        one.settle(ask, collapsing=False, failure=None, now=100.0)
        one.cancel(100.0)

    assert run(round_about(ledger), [who]).freed == 1001
    assert not who.holding.live
    assert who.asks == []


def test_having_nothing_older_left_is_an_excuse() -> None:
    """It discarded all up to the next candidate's age: that one is older now, and goes first."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1000, age=0.0)
    other = member(ledger, "other", 600, age=5.0)

    def give_what_is_older(ask: Ask) -> str:
        assert ask.newest == 5.0
        who.release(1)
        who.age = 6.0
        return "partial"

    who.answer = give_what_is_older
    ended = run(round_about(ledger, target=999), [who, other])

    assert [one.holding.live for one in (who, other)] == [True, False]
    assert ended.outcome is RoundOutcome.DONE
    assert who.holding.node.stalls == 0


def test_the_excuse_ends_the_row() -> None:
    ledger = ledger_of(10_000)
    who = member(ledger, "who", 8_000, age=0.0)
    others = [member(ledger, f"other-{n}", 1_000, age=5.0 + 10 * n) for n in range(3)]
    times = iter([0.0, 6.0, 6.0, 16.0, 16.0])

    def little(ask: Ask) -> str:
        who.age = next(times)
        return "partial"

    who.answer = little
    run(round_about(ledger, target=9_000), [who, *others])

    assert who.holding.live
    assert [other.holding.live for other in others] == [False, False, True]
    assert who.holding.node.stalls <= 1


def test_no_excuse_for_who_keeps_older_data_than_it_was_asked_to_discard() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1000, age=0.0)
    other = member(ledger, "other", 600, age=5.0)
    who.answer = give(who, 1)

    run(round_about(ledger), [who, other])
    assert not who.holding.live
    assert other.holding.live
    assert len(who.asks) == 2


def test_data_exactly_as_old_as_the_bound_has_to_go() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1000, age=5.0)
    other = member(ledger, "other", 600, age=5.0)
    who.answer = give(who, 1)

    run(round_about(ledger), [who, other])
    assert not who.holding.live
    assert other.holding.live


def test_the_next_candidate_of_a_larger_priority_excuses_nobody() -> None:
    """Its data is older, yet it is asked later: so everything of the victim has to go."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 500, age=50.0)
    other = member(ledger, "other", 600, age=5.0, priority=1)
    asked: list[Ask] = []

    def as_a_queue_does(ask: Ask) -> str:
        asked.append(ask)
        if who.age <= ask.newest:
            who.release(ask.wanted)
        return "partial"

    who.answer = as_a_queue_does
    ended = run(round_about(ledger), [who, other])

    assert [ask.newest for ask in asked] == [float("inf")]
    assert (ended.used, ended.victims) == (750, 1)
    assert other.holding.live


def test_who_frees_and_claims_again_collapses_after_64_asks() -> None:
    """P4, F21: a round ends whatever its participants do."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)

    def back_and_forth(ask: Ask) -> str:
        who.release(ask.wanted)
        who.claim(ask.wanted)
        return "partial"

    who.answer = back_and_forth
    ended = run(round_about(ledger), [who])

    assert len(who.asks) == 64
    assert not who.holding.live
    assert (ended.outcome, ended.victims) == (RoundOutcome.DONE, 64)
    settled = events_of(ledger, VictimSettled)[-1]
    assert settled.outcome is VictimOutcome.STALLED
    assert settled.detail == f"freed {64 * 350} bytes and claimed half of them or more again"
    assert who.holding.node.ended is not None
    assert who.holding.node.ended.kind is CloseKind.STALLED
    assert ledger.counts.stalled == 1


def loses(size: int) -> Callable[[Member], Callable[[Ask], str]]:
    """Frees 100 and claims again all but so many."""

    def of(who: Member) -> Callable[[Ask], str]:
        def answer(ask: Ask) -> str:
            who.release(100)
            who.claim(100 - size)
            return "partial"

        return answer

    return of


@pytest.mark.parametrize(("loss", "survives"), [(50, False), (51, True), (100, True)])
def test_after_64_asks_it_has_to_be_smaller_by_more_than_half_of_what_it_freed(loss: int, survives: bool) -> None:
    ledger = ledger_of(10_000)
    who = member(ledger, "who", 7_500 + 64 * 51)
    who.answer = loses(loss)(who)
    one = round_about(ledger)
    for _ in range(64):
        ask = next_ask(one, [who])
        who.answer(ask)
        one.settle(ask, collapsing=False, failure=None, now=100.0)
        if ledger.root.used <= 7_500:
            break
    assert who.holding.live is survives


def test_after_64_asks_with_progress_counting_begins_anew() -> None:
    ledger = ledger_of(100_000, strict=True)
    who = member(ledger, "who", 99_000)
    one = round_about(ledger, target=99_000 - 64 * 400)

    def turn(back: int) -> None:
        ask = next_ask(one, [who])
        who.release(400)
        who.claim(back)
        one.settle(ask, collapsing=False, failure=None, now=100.0)

    for _ in range(64):
        turn(100)
    for _ in range(63):
        turn(400)
    assert who.holding.live
    turn(400)
    assert not who.holding.live


def test_a_stalled_account_goes_with_all_below() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1000)
    child = member(ledger, "child", 100, age=9.0, parent=who.holding.node)
    who.answer, child.answer = give(who, 0), give(child, 0)

    ended = run(round_about(ledger), [who, child])

    assert not child.holding.live
    assert ended.freed == 1100


def test_accounts_are_counted_each_by_itself() -> None:
    """F20: too little of one says nothing of the other."""
    ledger = ledger_of(1000)
    node = account(ledger, "pair")
    first = member(ledger, "first", 600, age=0.0)
    second = member(ledger, "second", 600, age=1.0)
    first.answer = give(first, 0)
    second.answer = give(second, 200)

    run(round_about(ledger), [first, second])

    assert [who.holding.live for who in (first, second)] == [False, True]
    assert second.holding.node.stalls == 0
    assert node.ended is None
