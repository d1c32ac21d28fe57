"""What a round learns by asking for ages, and how few it asks."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from memquota._core.accounts import close_account, reconfigure
from memquota._core.checks import check_books
from memquota._core.events import CloseKind, CloseReason, RoundEnded, RoundOutcome
from memquota._core.holdings import Holding
from memquota._core.steps import Ask, Offer, Survey
from tests.core.support import (
    Member,
    account,
    answer_survey,
    give,
    ledger_of,
    member,
    next_ask,
    round_about,
    run,
    survey,
)


def test_only_those_are_asked_for_their_age_who_may_be_next() -> None:
    """A key is a lower bound of the true time: a round in an attack costs about its victims."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 11, age=float(n)) for n in range(100)]

    run(round_about(ledger), members)

    assert [who.holding.live for who in members].count(False) == 32
    assert [who.surveys for who in members] == [1] * 33 + [0] * 67


def test_a_better_key_puts_a_candidate_in_its_true_place() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(3)]
    members[0].age = 50.0  # it served its old data meanwhile

    run(round_about(ledger), members)

    assert [who.holding.live for who in members] == [True, False, False]
    assert members[0].holding.entry == (0, 50.0, 1, members[0].holding)


def test_the_place_learned_stays_for_the_next_round() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(3)]
    members[0].age = 50.0
    run(round_about(ledger), members)
    surveys = members[0].surveys
    members.append(member(ledger, "new", 700, age=60.0))

    run(round_about(ledger), members)

    assert members[0].surveys == surveys + 1
    assert not members[0].holding.live


def test_a_candidate_that_turns_out_older_than_known_is_found_though_it_was_passed() -> None:
    """The contract is broken, or it said so by a resurvey; the order is right all the same."""
    ledger = ledger_of(1000)
    protected = [member(ledger, f"protected {n}", 150, age=float(n), minimum=150) for n in range(2)]
    first = member(ledger, "first", 400, age=5.0)
    second = member(ledger, "second", 400, age=6.0)
    second.age = -3.0
    first.age = 7.0

    run(round_about(ledger), [*protected, first, second])

    assert [who.holding.live for who in (*protected, first, second)] == [True, True, True, False]


def test_those_are_surveyed_together_who_hold_what_is_missing_and_the_one_after_them() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 150, age=float(n)) for n in range(8)]  # 450 bytes above low water
    members[1].holding.node.asked = True

    step = round_about(ledger).next(100.0)

    assert isinstance(step, Survey)
    assert step.holdings == tuple(members[n].holding for n in (0, 2, 3, 4))


@pytest.mark.parametrize(("more", "asked"), [(0, 4), (1, 5)])
def test_a_byte_decides_whether_one_more_is_surveyed(more: int, asked: int) -> None:
    ledger = ledger_of(1000)
    for number in range(7):
        member(ledger, f"m{number}", 150, age=float(number))
    member(ledger, "last", 150 + more, age=9.0)

    step = round_about(ledger).next(100.0)

    assert isinstance(step, Survey)
    assert len(step.holdings) == asked


@pytest.mark.parametrize(("size", "asked"), [(250, 1), (249, 2)])
def test_when_the_chosen_one_is_enough_one_more_is_surveyed(size: int, asked: int) -> None:
    ledger = ledger_of(1000)  # 250 bytes above low water
    first = member(ledger, "first", size, age=1.0)
    second = member(ledger, "second", 400, age=2.0)
    for number in range(3, 6):
        member(ledger, f"m{number}", 0, age=float(number)).claim(117 if number < 5 else 116 + 250 - size, float(number))
    second.age = 50.0
    one = round_about(ledger)
    step = one.next(100.0)
    assert isinstance(step, Survey)
    one.surveyed(first.holding, 1.0, 100.0)  # the answers of the others are lost

    step = one.next(100.0)

    assert isinstance(step, Survey)
    assert len(step.holdings) == asked


def test_no_survey_asks_more_than_64() -> None:
    ledger = ledger_of(1000)
    for number in range(200):
        member(ledger, f"m{number}", 10, age=float(number))

    step = round_about(ledger).next(1000.0)

    assert isinstance(step, Survey)
    assert len(step.holdings) == 64


def test_the_only_candidate_is_found_though_it_turns_out_older_than_those_that_were_passed() -> None:
    ledger = ledger_of(1000)
    for number in range(2):
        member(ledger, f"protected {number}", 150, age=float(number), minimum=150)
    only = member(ledger, "only", 800, age=6.0)
    only.age = -3.0

    run(round_about(ledger), [only])

    assert not only.holding.live


def test_who_holds_nothing_in_an_account_that_holds_something_is_not_surveyed() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    beside = Member(ledger, who.holding.node, "beside")
    beside.claim(5, 1.0)
    beside.release(5)
    assert beside.holding.entry is not None

    step = round_about(ledger, policy="largest").next(100.0)

    assert isinstance(step, Survey)
    assert step.holdings == (who.holding,)


def test_who_comes_after_all_were_surveyed_does_not_begin_a_survey() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    one = round_about(ledger, policy="largest")
    step = one.next(100.0)
    assert isinstance(step, Survey)
    answer_survey(one, step, members, 100.0)
    assert isinstance(one.next(100.0), Offer)
    one.offered([(who.holding, 1) for who in members])

    member(ledger, "new", 5, age=99.0)

    assert isinstance(one.next(100.0), Ask)


def test_a_survey_is_part_of_a_pass_with_a_number_of_its_own() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    first, second = round_about(ledger), round_about(ledger)

    step, other = first.next(100.0), second.next(100.0)

    assert isinstance(step, Survey)
    assert isinstance(other, Survey)
    assert (step.survey, other.survey) == (1, 2)
    assert step.holdings == other.holdings == (who.holding,)


def test_who_holds_nothing_any_more_is_taken_out_of_the_candidates() -> None:
    ledger = ledger_of(1000)
    empty = member(ledger, "empty", 5, age=0.0)
    empty.release(5)
    full = member(ledger, "full", 1100, age=1.0)

    run(round_about(ledger), [empty, full])

    assert empty.surveys == 0
    assert empty.holding.entry is None
    assert empty.holding.live
    check_books(ledger)
    empty.claim(1, 7.0)
    assert empty.holding.entry == (0, 7.0, 3, empty.holding)


def test_no_more_than_256_candidates_are_looked_at_in_one_step() -> None:
    """P11: the lock is free between them, and the next step goes on where this one was."""
    ledger = ledger_of(2000)
    for number in range(513):
        member(ledger, f"m{number}", 4, age=float(number), minimum=10)
    last = member(ledger, "last", 50, age=999.0)
    one = round_about(ledger)

    assert one.next(100.0) == Survey((), 1)  # 256 of them, and nobody to ask
    assert one.next(100.0) == Survey((), 1)
    step = one.next(100.0)
    assert isinstance(step, Survey)
    assert step.holdings == (last.holding,)


def test_256_candidates_are_looked_at_in_one_step() -> None:
    ledger = ledger_of(1000)
    for number in range(255):
        member(ledger, f"m{number}", 4, age=float(number), minimum=10)
    last = member(ledger, "last", 50, age=999.0)
    step = round_about(ledger).next(100.0)

    assert isinstance(step, Survey)
    assert step.holdings == (last.holding,)


def test_entries_of_closed_accounts_are_cleared_away_by_the_round_that_meets_them() -> None:
    ledger = ledger_of(1000)
    top = account(ledger, "top")
    gone = member(ledger, "gone", 5, age=0.0, parent=top)
    members = [member(ledger, f"m{n}", 500, age=1.0 + n) for n in range(3)]
    close_account(ledger, top, CloseReason(CloseKind.CLOSED, "top", "by hand", 0.0))
    assert gone.holding.entry in ledger.root_scope.index

    run(round_about(ledger), [gone, *members])

    assert gone.surveys == 0
    assert gone.holding.entry is None
    assert gone.holding not in {entry[3] for entry in ledger.root_scope.index}
    check_books(ledger)


@pytest.mark.parametrize(("answer", "time"), [(nan, -inf), ("x", -inf), (10**9, 100.0), (-(10**400), -inf), (7, 7.0)])
def test_answers_are_judged_and_ordered(answer: Any, time: float) -> None:
    """F13: the index never compares NaN."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 600, age=50.0)
    other = member(ledger, "other", 600, age=60.0)
    who.age = answer
    one = round_about(ledger)

    next_ask(one, [who, other])

    assert who.holding.entry is not None
    assert who.holding.entry[1] == time


def test_a_complaint_is_handed_to_whoever_logs_it() -> None:
    """F13: nonsense gets a log line."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    one = round_about(ledger)
    one.next(100.0)

    assert one.surveyed(who.holding, nan, 100.0) == "answered NaN for the time of its oldest data"
    assert one.surveyed(who.holding, 5.0, 100.0) is None


def test_an_answer_of_somebody_who_is_gone_is_not_heard() -> None:
    """F22: nor one of somebody who is no candidate."""
    ledger = ledger_of(1000)
    gone, idle = member(ledger, "gone", 500), Member(ledger, account(ledger))
    member(ledger, "who", 600)
    one = round_about(ledger)
    ledger.end(gone.holding, "its participant is gone")

    assert one.surveyed(gone.holding, nan, 100.0) is None
    assert one.surveyed(idle.holding, nan, 100.0) is None
    assert gone.holding.surveyed_in == idle.holding.surveyed_in == 0


def test_an_account_answers_for_itself() -> None:
    ledger = ledger_of(1000)
    node = account(ledger, "own")
    ledger.claim_own(node, 1100, 7.0)
    assert node.own is not None
    one = round_about(ledger)
    one.next(100.0)

    assert one.surveyed(node.own, nan, 100.0) is None
    assert node.own.entry is not None
    assert node.own.entry[1] == 7.0


def test_who_names_no_age_is_the_youngest_at_first_and_very_old_when_it_does_so_again() -> None:
    """F13: a claim comes before its data; who never shows any hides it."""
    ledger = ledger_of(1000)
    silent = member(ledger, "silent", 200, age=0.0)
    silent.age = None
    others = [member(ledger, f"m{n}", 450, age=1.0 + n) for n in range(2)]

    run(round_about(ledger), [silent, *others])
    assert silent.holding.live
    assert silent.holding.entry == (0, 100.0, 1, silent.holding)
    others.append(member(ledger, "new", 900, age=5.0))
    others[-1].age = 150.0

    run(round_about(ledger, now=200.0), [silent, *others], now=200.0)
    assert not silent.holding.live


def test_who_names_no_age_again_after_another_claim_is_the_youngest_again() -> None:
    """F13: something was claimed in between."""
    ledger = ledger_of(1000)
    silent = member(ledger, "silent", 200, age=0.0)
    silent.age = None
    others = [member(ledger, "first", 900, age=1.0)]
    run(round_about(ledger), [silent, *others])
    silent.claim(1)
    others.append(member(ledger, "new", 900, age=5.0))

    run(round_about(ledger, now=200.0), [silent, *others], now=200.0)
    assert silent.holding.live
    assert not others[-1].holding.live


def test_who_named_an_age_in_between_is_not_silent_twice_in_a_row() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    one = round_about(ledger)
    for answer in (None, 5.0, None):
        one.surveyed(who.holding, answer, 100.0)
    assert who.holding.entry == (0, 100.0, 1, who.holding)
    assert one.surveyed(who.holding, None, 101.0) == "names no age twice, yet holds 1100 bytes"


def test_who_holds_nothing_but_credit_rests_for_the_round() -> None:
    """It is not asked, nor taken for somebody who hides."""
    ledger = ledger_of(4 * 2**20)
    idle = member(ledger, "idle", 100, age=0.0)
    idle.release(100)
    idle.age = None
    assert idle.holding.booked
    full = member(ledger, "full", 4 * 2**20, age=1.0)

    assert run(round_about(ledger), [idle, full]).outcome is RoundOutcome.DONE
    assert (idle.surveys, idle.holding.live, full.holding.live) == (1, True, False)
    for surveys in (2, 3):
        assert run(round_about(ledger, target=0), [idle]).outcome is RoundOutcome.NOBODY_LEFT
        assert (idle.surveys, idle.holding.live) == (surveys, True)


def test_a_resurvey_puts_a_candidate_first_and_asks_it_again() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(3)]
    version = ledger.version
    ledger.resurvey(members[2].holding)
    members[2].age = -1.0
    assert ledger.version == version + 1
    check_books(ledger)

    run(round_about(ledger), members)
    assert [who.holding.live for who in members] == [False, True, False]


def test_a_resurvey_in_the_middle_of_a_round_makes_nobody_a_victim_unasked() -> None:
    """It takes over data of its own age, and is asked for that before anything else."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(3)]
    one = round_about(ledger)
    assert isinstance(one.next(100.0), Survey)
    members[0].age = 50.0
    one.surveyed(members[0].holding, 50.0, 100.0)
    ledger.resurvey(members[0].holding)

    run(one, members)

    assert [who.holding.live for who in members] == [True, False, False]
    assert members[0].surveys >= 1


def test_a_resurvey_of_what_holds_nothing_or_is_over_does_nothing() -> None:
    ledger = ledger_of(1000)
    idle, gone = member(ledger, "idle"), member(ledger, "gone", 5)
    ledger.end(gone.holding, "closed")
    version = ledger.version
    gone.holding.surveyed_in = 7
    ledger.resurvey(idle.holding)
    ledger.resurvey(gone.holding)

    assert idle.holding.entry is gone.holding.entry is None
    assert gone.holding.surveyed_in == 7
    assert ledger.version == version + 1
    check_books(ledger)


def test_after_a_part_was_given_everybody_there_is_asked_for_its_age_again() -> None:
    ledger = ledger_of(1000)
    first = member(ledger, "first", 700, age=0.0)
    beside = Member(ledger, first.holding.node, "beside")
    beside.claim(400, 1.0)
    beside.age = 1.0
    first.answer, beside.answer = give(first, 50), give(beside, 50)
    one = round_about(ledger)
    ask = next_ask(one, [first, beside])
    first.holding.silent_since = beside.holding.silent_since = 3

    one.settle(ask, collapsing=False, failure=None, now=100.0)

    assert [who.holding.surveyed_in for who in (first, beside)] == [0, 0]
    assert [who.holding.silent_since for who in (first, beside)] == [-1, -1]
    again = next_ask(one, [first, beside])
    assert again.victim is ask.victim
    assert first.surveys == 2


def test_two_candidates_of_the_same_moment_are_asked_in_the_order_of_their_coming() -> None:
    """F33: the order is total, whatever the clock does."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 300, age=5.0) for n in range(4)]

    run(round_about(ledger), members)
    assert [who.holding.live for who in members] == [False, False, True, True]


def test_a_clock_that_stands_still_or_goes_back_brings_no_round_to_a_stop() -> None:
    """F33: every answer in the future is now."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 300, age=5000.0 + n) for n in range(4)]
    one = round_about(ledger, now=100.0)
    ended = run(one, members, now=50.0)

    assert ended.outcome is RoundOutcome.DONE
    assert [who.holding.live for who in members] == [False, False, True, True]


def test_a_priority_that_changes_during_a_round_is_taken_from_then_on() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(3)]
    one = round_about(ledger)
    assert isinstance(one.next(100.0), Survey)
    one.surveyed(members[0].holding, 0.0, 100.0)
    reconfigure(ledger, members[2].holding.node, None, 0, -1)

    run(one, members)
    assert [who.holding.live for who in members] == [False, True, False]


def test_surveying_asks_every_candidate_at_most_once_a_pass() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 100, age=0.0) for n in range(11)]
    for number, who in enumerate(members):
        who.age = 50.0 + number
    one = round_about(ledger)
    step = survey(one, members)

    assert isinstance(step, Ask)
    assert all(who.surveys == 1 for who in members)
    assert isinstance(step.holdings[0], Holding)
    one.settle(step, collapsing=True, failure=None, now=100.0)
    assert isinstance(run(one, members), RoundEnded)
    assert all(who.surveys == 1 for who in members)
