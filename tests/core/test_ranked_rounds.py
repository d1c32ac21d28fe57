"""Rounds with a policy that judges everybody: all are surveyed, then taken in the policy's order."""

from __future__ import annotations

from math import inf

from memquota._core.accounts import close_account
from memquota._core.events import CloseKind, CloseReason, RoundOutcome, VictimAsked
from memquota._core.holdings import Holding
from memquota._core.steps import Ask, Offer, Survey
from tests.core.support import Member, account, events_of, give, ledger_of, member, round_about, run


def by_size(holding: Holding, time: float) -> int:
    return holding.booked


def test_everybody_is_surveyed_and_the_largest_key_goes_first() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{size}", size, age=float(size)) for size in (100, 500, 300, 400)]

    ended = run(round_about(ledger, policy="largest"), members, key=by_size)

    assert [who.surveys for who in members] == [1, 1, 1, 1]
    assert [who.holding.live for who in members] == [True, False, True, False]
    assert ended.outcome is RoundOutcome.DONE


def test_priority_comes_before_the_key() -> None:
    ledger = ledger_of(1000)
    large = member(ledger, "large", 900, priority=1)
    small = member(ledger, "small", 300)

    run(round_about(ledger, policy="largest", target=1000), [large, small], key=by_size)
    assert [who.holding.live for who in (large, small)] == [True, False]


def test_decisions_name_the_policy_and_its_score() -> None:
    """P12: by which key, of what age, who is next."""
    ledger = ledger_of(1000)
    first, second = member(ledger, "first", 700, age=90.0), member(ledger, "second", 600, age=80.0)
    run(round_about(ledger, policy="largest"), [first, second], key=by_size)

    asked = events_of(ledger, VictimAsked)
    assert asked == [
        VictimAsked(
            1,
            "first",
            "first by largest: 700; its oldest data is 10.000 s old",
            10.0,
            700,
            700,
            550,
            1,
            "second",
            20.0,
            100.0,
        )
    ]


def test_a_policy_bounds_nobody_by_the_next_ones_age() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, "first", 700, age=90.0), member(ledger, "second", 600, age=80.0)]
    run(round_about(ledger, policy="largest"), members, key=by_size)

    assert [ask.newest for ask in members[0].asks] == [inf]


def test_a_survey_asks_64_at_a_time() -> None:
    """P11: the lock is free between them."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{number}", 11) for number in range(100)]
    one = round_about(ledger, policy="largest")

    first = one.next(100.0)
    second = one.next(100.0)
    third = one.next(100.0)

    assert isinstance(first, Survey)
    assert isinstance(second, Survey)
    assert isinstance(third, Offer)
    assert (len(first.holdings), len(second.holdings)) == (64, 36)
    assert first.survey == second.survey == third.survey == 1
    assert {*first.holdings, *second.holdings} == {who.holding for who in members}


def test_who_cannot_be_chosen_is_not_surveyed() -> None:
    ledger = ledger_of(1000)
    protected = member(ledger, "protected", 600, minimum=600)
    empty = member(ledger, "empty", 5)
    empty.release(5)
    who = member(ledger, "who", 500)
    one = round_about(ledger, policy="largest")
    late = member(ledger, "late", 10)

    step = one.next(100.0)

    assert isinstance(step, Survey)
    assert step.holdings == (who.holding,)
    assert [one.holding.live for one in (protected, empty, late)] == [True, True, True]


def test_who_is_surveyed_and_moves_on_is_not_surveyed_again() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{number}", 4, age=float(number)) for number in range(257)]
    one = round_about(ledger, policy="largest", target=1028 - 8)
    for who in members:
        who.age = 99.0  # each goes behind those that were not surveyed yet

    run(one, members, key=by_size)

    assert [who.surveys for who in members] == [1] * 257


def test_who_died_or_was_emptied_meanwhile_is_passed_over() -> None:
    """F22: those that were handed over are looked at again when it is their turn."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(5)]
    one = round_about(ledger, policy="largest", target=1000)
    assert isinstance(one.next(100.0), Survey)
    assert isinstance(one.next(100.0), Offer)
    one.offered([(who.holding, 400) for who in members])
    ledger.end(members[0].holding, "its participant is gone")
    members[1].release(400)
    close_account(ledger, members[2].holding.node, CloseReason(CloseKind.CLOSED, "m2", "by hand", 0.0))
    members[4].claim(400)

    step = one.next(100.0)
    while isinstance(step, Offer):
        one.offered([])
        step = one.next(100.0)

    assert isinstance(step, Ask)
    assert step.victim.name == "m3"


def test_when_all_were_handed_over_and_somebody_gave_all_are_ordered_anew() -> None:
    """P4: nobody left is said only when nobody gives any more."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    for who in members:
        who.answer = give(who, 100)

    ended = run(round_about(ledger, policy="largest"), members, key=by_size)

    assert ended.outcome is RoundOutcome.DONE
    assert ended.used == 700
    assert [len(who.asks) for who in members] == [3, 2]
    assert [who.surveys for who in members] == [3, 3]


def test_who_gives_too_little_is_asked_again_before_anybody_else() -> None:
    """P5, F20: it is still the first, and costs nobody else anything."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    for who in members:
        who.answer = give(who, 0)

    ended = run(round_about(ledger, policy="largest"), members, key=by_size)

    assert (ended.outcome, ended.victims) == (RoundOutcome.DONE, 3)
    assert [len(who.asks) for who in members] == [2, 0]
    assert [who.holding.live for who in members] == [False, True]


def test_too_little_once_is_forgiven_under_a_policy_too() -> None:
    """F20: twice in a row."""
    ledger = ledger_of(1000)
    first, second = member(ledger, "first", 600), member(ledger, "second", 600)
    gifts = iter([0, 300, 0, 300])

    def give_next(ask: Ask) -> str:
        first.release(next(gifts))
        return "partial"

    first.answer, second.answer = give_next, give(second, 30)

    ended = run(round_about(ledger, policy="largest"), [first, second], key=by_size)

    assert ended.outcome is RoundOutcome.DONE
    assert first.holding.live
    assert len(first.asks) == 4


def test_too_little_is_no_excuse_under_a_policy() -> None:
    """F20: there is no bound to keep to."""
    ledger = ledger_of(1000)
    liar = member(ledger, "liar", 900, age=0.0)
    other = member(ledger, "other", 600, age=1.0)
    liar.answer, other.answer = give(liar, 1), give(other, 50)

    ended = run(round_about(ledger, policy="largest"), [liar, other], key=by_size)

    assert not liar.holding.live
    assert other.holding.live
    assert ended.used <= 750
    assert len(liar.asks) == 2


def test_a_second_participant_of_a_victim_has_its_turn() -> None:
    ledger = ledger_of(1000)
    first = member(ledger, "first", 600)
    beside = Member(ledger, first.holding.node, "beside")
    beside.claim(500)
    beside.age = 0.0
    first.answer, beside.answer = give(first, 100), give(beside, 100)

    ended = run(round_about(ledger, policy="largest"), [first, beside], key=by_size)

    assert ended.outcome is RoundOutcome.DONE
    assert ended.used == 700
    assert [len(who.asks) for who in (first, beside)] == [2, 2]


def test_accounts_for_themselves_are_ranked_too() -> None:
    ledger = ledger_of(1000)
    node = account(ledger, "own")
    ledger.claim_own(node, 700, 5.0)
    who = member(ledger, "who", 600)

    run(round_about(ledger, policy="largest"), [who], key=by_size)
    assert node.ended is not None
    assert who.holding.live


def test_an_empty_ledger_has_nobody_to_offer() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, minimum=1100)
    one = round_about(ledger, policy="largest")

    assert isinstance(one.next(100.0), Survey)
    assert isinstance(one.next(100.0), Offer)
    one.offered([])
    ended = one.next(100.0)

    assert ended is one.ended
    assert who.holding.live
