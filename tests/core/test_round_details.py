"""What a round does at its edges: the last byte, the second look, limits that go and come back while it asks."""

from __future__ import annotations

import pytest

from memquota._core.accounts import reconfigure
from memquota._core.events import Event, LimitsChanged, RoundOutcome, RoundStarted
from memquota._core.limits import Limits
from memquota._core.reclamation import may_start
from memquota._core.steps import Ask, Offer, Survey, Wait
from tests.core.support import (
    account,
    answer_survey,
    events_of,
    give,
    ledger_of,
    member,
    next_ask,
    round_about,
    run,
    survey,
)


def test_what_happened_before_a_round_is_told_before_it() -> None:
    ledger = ledger_of(1000)
    reconfigure(ledger, ledger.root, Limits(900), 0, 0)
    round_about(ledger)

    kinds: list[type[Event]] = [type(event) for event in events_of(ledger)]
    assert kinds == [LimitsChanged, RoundStarted]


def test_whether_a_round_may_start_is_yes_or_no() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1001, minimum=1001)
    assert may_start(ledger, ledger.root) is True
    assert may_start(ledger, who.holding.node) is False

    run(round_about(ledger), [who])
    assert may_start(ledger, ledger.root) is False


@pytest.mark.parametrize("missing", [1, 300])
def test_who_was_chosen_stays_so_though_the_next_one_turns_out_to_be_older(missing: int) -> None:
    """One byte that is missing is enough."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(2)]
    members[1].age = -5.0
    one = round_about(ledger, target=1000 - missing)
    assert isinstance(one.next(100.0), Survey)
    one.surveyed(members[0].holding, 0.0, 100.0)

    ask = next_ask(one, members)

    assert (ask.victim.name, ask.wanted, ask.newest) == ("m0", missing, -5.0)


def test_accounts_that_come_below_a_victim_after_it_was_chosen_are_asked_with_it() -> None:
    """F32: a round may be left in between, until the next claim goes on with it."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    victim = members[0].holding.node
    one = round_about(ledger)
    assert isinstance(one.next(100.0), Survey)
    one.surveyed(members[0].holding, 0.0, 100.0)
    assert isinstance(one.next(100.0), Survey)  # it is chosen, and who follows is to be found out
    below = account(ledger, "below", victim)
    ledger.claim_own(below, 100, 100.0)

    ask = next_ask(one, members)

    assert ask.victim is victim
    assert ask.members == [victim, below]
    assert ask.holdings == [members[0].holding, below.own]
    assert below.asked
    one.cancel(100.0)
    assert not below.asked


def test_who_is_being_asked_is_not_asked_again_when_limits_went_and_came_back() -> None:
    """F32: the answer is still to come."""
    ledger = ledger_of(10_000)
    limited = account(ledger, "limited", limit=1000)
    members = [member(ledger, f"m{n}", 600, age=float(n), parent=limited) for n in range(3)]
    one = round_about(ledger, limited)
    first = next_ask(one, members)
    reconfigure(ledger, limited, None, 0, 0)
    assert isinstance(one.next(100.0), Wait)
    assert first.victim.asked
    reconfigure(ledger, limited, Limits(400), 0, 0)

    asked = []
    while isinstance(step := survey(one, members), Ask):
        asked.append(step.victim.name)

    assert asked == ["m1", "m2"]
    assert step == Wait()


# --- too little -------------------------------------------------------------------------------------------------------


def test_too_little_counts_once_however_often_it_is_its_turn() -> None:
    """F20: it was asked once, then chosen twice and not needed."""
    ledger = ledger_of(1000)
    who, other = member(ledger, "who", 600, age=0.0), member(ledger, "other", 500, age=1.0)
    members = [who, other]
    one = round_about(ledger)
    one.settle(next_ask(one, members), collapsing=False, failure=None, now=100.0)
    one.cancel(100.0)

    for _ in range(2):
        one = round_about(ledger)
        step = one.next(100.0)
        assert isinstance(step, Survey)
        one.surveyed(who.holding, 0.0, 100.0)
        assert isinstance(one.next(100.0), Survey)  # it is chosen, and who follows is to be found out
        assert who.holding.node.asked
        one.cancel(100.0)

    assert who.holding.live
    assert next_ask(round_about(ledger), members).victim is who.holding.node


def test_after_64_asks_with_progress_what_was_freed_before_counts_no_more() -> None:
    """P4: to the byte. It frees 64,001 bytes in the second 64 asks and keeps 32,001 of them free."""
    ledger = ledger_of(200_000, strict=True)
    who, later = member(ledger, "who", 99_000), member(ledger, "later", 100_000, priority=1)
    members = [who, later]
    one = round_about(ledger)

    def turn(freed: int, back: int) -> None:
        ask = next_ask(one, members)
        assert ask.victim is who.holding.node
        who.release(freed)
        who.claim(back)
        one.settle(ask, collapsing=False, failure=None, now=100.0)

    for _ in range(64):
        turn(1000, 499)
    later.claim(64 * 501)  # so that there is as much to be found as before
    for _ in range(63):
        turn(1000, 500)
    turn(1001, 500)

    assert who.holding.booked == 99_000 - 64 * 501 - 32_001
    assert who.holding.live


# --- with a policy ----------------------------------------------------------------------------------------------------


def test_a_round_with_a_policy_ends_when_those_who_gave_are_protected_now() -> None:
    """P4: what was given in one pass over the candidates is no reason for a third one."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, minimum=300) for n in range(2)]
    for who in members:
        who.answer = give(who, 300)

    ended = run(round_about(ledger, policy="largest", target=500), members)

    assert (ended.outcome, ended.victims, ended.used) == (RoundOutcome.NOBODY_LEFT, 2, 600)
    assert ledger.surveys == 2


def test_where_nobody_gave_a_byte_the_candidates_are_not_ordered_anew() -> None:
    """P4: nobody is left, and another pass would find the same."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    one = round_about(ledger, policy="largest")
    step = one.next(100.0)
    assert isinstance(step, Survey)
    answer_survey(one, step, [who], 100.0)
    assert isinstance(one.next(100.0), Offer)
    one.offered([(who.holding, 1100)])
    assert isinstance(one.next(100.0), Offer)
    one.offered([])
    ask = one.next(100.0)
    assert isinstance(ask, Ask)
    reconfigure(ledger, who.holding.node, None, 1100, 0)
    one.settle(ask, collapsing=False, failure=None, now=100.0)

    ended = one.next(100.0)

    assert ended is one.ended
    assert one.ended is not None
    assert one.ended.outcome is RoundOutcome.NOBODY_LEFT
    assert ledger.surveys == 1


def test_one_byte_is_a_reason_to_order_the_candidates_anew() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 753)
    who.answer = give(who, 1)

    ended = run(round_about(ledger, policy="largest"), [who])

    assert (ended.outcome, ended.victims, ended.used) == (RoundOutcome.DONE, 3, 750)
