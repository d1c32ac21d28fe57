"""One round: who is asked, in which order, until when, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from memquota._core.accounts import add_parent, close_account, reconfigure
from memquota._core.checks import check_books, rebuild
from memquota._core.events import (
    AccountClosing,
    CloseKind,
    CloseReason,
    RoundEnded,
    RoundOutcome,
    RoundStarted,
    VictimAsked,
    VictimOutcome,
    VictimSettled,
)
from memquota._core.ledger import Counts, Ledger
from memquota._core.limits import Limits
from memquota._core.reclamation import may_start
from memquota._core.steps import Ask, Survey, Wait
from tests.core.support import Member, account, events_of, give, ledger_of, member, next_ask, round_about, run, survey

WHY = CloseReason(CloseKind.CLOSED, "account", "closed by hand", 9.0)


def alive(members: list[Member]) -> list[str]:
    return [who.holding.label for who in members if who.holding.live]


# --- who goes, and until when -----------------------------------------------------------------------------------------


def test_the_oldest_data_goes_first_and_nobody_beyond_need() -> None:
    """P4, P10: 1100 of 1000; without the second victim 900 would be left, above 750."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{age}", 200, age=age) for age in (5.0, 1.0, 3.0, 2.0, 4.0)]
    members.append(member(ledger, "m0", 100, age=0.0))

    ended = run(round_about(ledger), members)

    assert alive(members) == ["m5.0", "m3.0", "m4.0"]
    assert ended == RoundEnded(1, "tracker", RoundOutcome.DONE, 3, 500, 600, 750, 100.0)
    assert ledger.root.used == 600


def test_at_low_water_a_round_is_over() -> None:
    """P4: at or below it, not only below."""
    ledger = ledger_of(1000)
    members = [member(ledger, "first", 251, age=0.0), member(ledger, "second", 750, age=1.0)]

    assert run(round_about(ledger), members).outcome is RoundOutcome.DONE
    assert alive(members) == ["second"]


def test_one_byte_above_low_water_another_one_is_asked() -> None:
    """P4: one byte is enough."""
    ledger = ledger_of(1000)
    members = [member(ledger, "first", 250, age=0.0), member(ledger, "second", 751, age=1.0)]

    run(round_about(ledger), members)
    assert alive(members) == []


def test_a_round_that_is_not_needed_any_more_asks_nobody() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1001)
    one = round_about(ledger)
    who.release(251)

    step = one.next(101.0)

    assert step == RoundEnded(1, "tracker", RoundOutcome.DONE, 0, 0, 750, 750, 101.0)
    assert one.ended is step
    assert one.next(102.0) is step
    assert who.surveys == 0


def test_a_round_by_hand_comes_down_to_its_target() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{number}", 100, age=float(number)) for number in range(6)]

    one = round_about(ledger, target=250, why="asked for by hand")
    assert one.target == 250
    ended = run(one, members)

    assert alive(members) == ["m4", "m5"]
    assert (ended.used, ended.target) == (200, 250)
    assert run(round_about(ledger, target=0), members).used == 0


def test_a_target_follows_the_limits_while_the_round_runs() -> None:
    """F32: raised, the round stops before the next victim; lowered, it takes more."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{number}", 300, age=float(number)) for number in range(5)]
    one = round_about(ledger)
    assert one.target == 750
    ask = next_ask(one, members)
    reconfigure(ledger, ledger.root, Limits(2000), 0, 0)
    assert one.target == 1500
    one.settle(ask, collapsing=True, failure=None, now=100.0)

    assert run(one, members).outcome is RoundOutcome.DONE
    assert alive(members) == ["m1", "m2", "m3", "m4"]

    one = round_about(ledger, target=None)
    reconfigure(ledger, ledger.root, Limits(800), 0, 0)
    run(one, members)
    assert alive(members) == ["m3", "m4"]


def test_a_larger_priority_is_asked_later_whatever_its_age() -> None:
    ledger = ledger_of(1000)
    members = [
        member(ledger, "important", 500, age=0.0, priority=1),
        member(ledger, "young", 300, age=9.0),
        member(ledger, "unimportant", 300, age=50.0, priority=-1),
    ]

    run(round_about(ledger), members)
    assert alive(members) == ["important"]
    run(round_about(ledger, target=0), members)
    assert alive(members) == []


def test_an_account_at_its_minimum_is_not_chosen() -> None:
    ledger = ledger_of(1000)
    members = [
        member(ledger, "at", 300, age=0.0, minimum=300),
        member(ledger, "above", 301, age=1.0, minimum=300),
        member(ledger, "young", 400, age=2.0),
    ]

    run(round_about(ledger), members)
    assert alive(members) == ["at", "young"]
    ended = run(round_about(ledger, target=0), members)
    assert ended.outcome is RoundOutcome.NOBODY_LEFT
    assert alive(members) == ["at"]


def test_a_protected_account_still_goes_with_its_parent() -> None:
    ledger = ledger_of(1000)
    parent = member(ledger, "parent", 600, age=0.0)
    child = member(ledger, "child", 500, age=5.0, minimum=500, parent=parent.holding.node)

    ended = run(round_about(ledger), [parent, child])

    assert not child.holding.live
    assert (ended.freed, ended.victims) == (1100, 1)


def test_descendants_are_asked_with_the_victim_and_not_the_other_way_round() -> None:
    ledger = ledger_of(1000)
    top = member(ledger, "top", 400, age=5.0)
    child = member(ledger, "child", 300, age=1.0, parent=top.holding.node)
    grandchild = member(ledger, "grandchild", 301, age=9.0, parent=child.holding.node)
    members = [top, child, grandchild]

    ask = next_ask(round_about(ledger), members)

    assert ask.victim is child.holding.node
    assert ask.members == [child.holding.node, grandchild.holding.node]
    assert ask.holdings == [child.holding, grandchild.holding]
    assert (ask.used, ask.wanted, ask.newest, ask.returned) == (601, 251, 5.0, 0)
    assert all(node.asked for node in ask.members)
    assert not top.holding.node.asked


def test_what_an_account_holds_itself_is_as_old_as_its_earliest_claim() -> None:
    ledger = ledger_of(1000)
    node = account(ledger, "own")
    ledger.claim_own(node, 300, 1.0)
    ledger.claim_own(node, 300, 8.0)
    who = member(ledger, "who", 600, age=2.0)
    one = round_about(ledger)

    ended = run(one, [who])

    assert (node.ended is not None, who.holding.live) == (True, True)
    assert ended.used == 600

    ledger.claim_own(account(ledger, "newer"), 500, 90.0)
    assert run(round_about(ledger), [who]).used == 500  # what was given back makes it younger
    assert not who.holding.live


def test_an_account_is_over_its_own_limit_only_its_subtree_is_asked() -> None:
    ledger = ledger_of(10_000)
    outside = member(ledger, "outside", 5000, age=0.0)
    limited = account(ledger, "limited", limit=1000)
    members = [outside, *(member(ledger, f"m{n}", 400, age=1.0 + n, parent=limited) for n in range(3))]
    assert list(ledger.strained) == [limited]

    one = round_about(ledger, limited)
    ended = run(one, members)

    assert alive(members) == ["outside", "m2"]
    assert ended == RoundEnded(1, "limited", RoundOutcome.DONE, 2, 800, 400, 750, 100.0)
    check_books(ledger)


def test_one_participant_that_collapses_takes_its_account_with_it() -> None:
    ledger = ledger_of(1000)
    first = member(ledger, "first", 500, age=0.0)
    beside = Member(ledger, first.holding.node, "beside")
    beside.claim(600, 5.0)
    beside.age, beside.answer = 5.0, give(beside, 300)

    ended = run(round_about(ledger), [first, beside])

    assert first.asks == beside.asks
    assert alive([first, beside]) == []
    assert (ended.freed, ended.used) == (1100, 0)


def test_all_that_give_part_live_on() -> None:
    ledger = ledger_of(1000)
    first = member(ledger, "first", 600, age=0.0)
    beside = Member(ledger, first.holding.node, "beside")
    beside.claim(500, 5.0)
    beside.age = 5.0
    first.answer, beside.answer = give(first, 200), give(beside, 150)

    ended = run(round_about(ledger), [first, beside])

    assert (ended.outcome, ended.victims, ended.freed, ended.used) == (RoundOutcome.DONE, 1, 350, 750)
    assert alive([first, beside]) == ["first", "beside"]
    assert ledger.counts == Counts(rounds=1, victims=1, partial=1, bytes_reclaimed=350)


def test_who_gave_part_is_ordered_by_its_new_age() -> None:
    ledger = ledger_of(1000)
    first = member(ledger, "first", 600, age=0.0)
    second = member(ledger, "second", 600, age=3.0)

    def part(ask: Ask) -> str:
        first.release(100)
        first.age = 4.0  # younger than the other one now
        return "partial"

    first.answer = part

    run(round_about(ledger), [first, second])
    assert alive([first, second]) == ["first"]
    assert len(first.asks) == 1


# --- nobody left ------------------------------------------------------------------------------------------------------


def test_a_round_that_finds_nobody_says_so() -> None:
    """P4: it ends, and is told."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n), minimum=400) for n in range(3)]
    events_of(ledger)
    ledger.version = 3

    ended = run(round_about(ledger), members)

    assert ended == RoundEnded(1, "tracker", RoundOutcome.NOBODY_LEFT, 0, 0, 1200, 750, 100.0)
    assert events_of(ledger, RoundEnded) == [ended]
    assert (ledger.counts.rounds, ledger.counts.nobody_left, ledger.counts.victims) == (1, 1, 0)
    assert ledger.root_scope.gave_up == (1200, 3)


def test_after_a_round_that_found_nobody_usage_has_to_grow_before_another_one_looks() -> None:
    """P4: by a 64th part of the limit; above it, not at it."""
    ledger = ledger_of(6400)
    member(ledger, "protected", 6401, minimum=10_000)
    root = ledger.root
    assert may_start(ledger, root)
    run(round_about(ledger))
    assert ledger.root_scope.gave_up == (6401, 0)
    assert not may_start(ledger, root)

    holding = next(iter(ledger.root_scope.index))[3]
    root.used = holding.booked = holding.node.used = 6401 + 100
    assert not may_start(ledger, root)
    root.used = holding.booked = holding.node.used = 6401 + 101
    assert may_start(ledger, root)


@pytest.mark.parametrize("closes", [False, True])
def test_after_a_round_that_found_nobody_growth_counts_from_the_least_usage_since(closes: bool) -> None:
    """P3, P4: what was used at its end, and is not any more, keeps nobody from looking."""
    ledger = ledger_of(6400)
    many, few = (member(ledger, name, 6401, minimum=10_000) for name in ("many", "few"))
    run(round_about(ledger))
    assert ledger.root_scope.gave_up == (12_802, 0)

    if closes:
        close_account(ledger, many.holding.node, WHY)
    else:
        many.release(6401)
    assert ledger.root_scope.gave_up == (6401, 0)
    few.claim(100)
    assert ledger.root_scope.gave_up == (6401, 0)
    assert not may_start(ledger, ledger.root)
    few.release(50)
    assert ledger.root_scope.gave_up == (6401, 0)
    few.claim(51)
    assert may_start(ledger, ledger.root)


def test_growth_counts_from_the_least_usage_also_where_no_limit_was_passed() -> None:
    """P3, P4: a round that somebody asked for found nobody, below the limit."""
    ledger = ledger_of(6400)
    who = member(ledger, "who", 6390, minimum=10_000)
    run(round_about(ledger, target=0, why="asked for by hand"))
    assert ledger.root_scope.gave_up == (6390, 0)

    who.release(100)
    who.claim(111)

    assert ledger.root_scope.gave_up == (6290, 0)
    assert may_start(ledger, ledger.root)


CHANGES: dict[str, Callable[[Ledger, Member], object]] = {
    "a newcomer": lambda ledger, who: member(ledger, "newcomer", 1),
    "a configuration": lambda ledger, who: reconfigure(ledger, who.holding.node, None, 0, 0),
    "older data": lambda ledger, who: ledger.resurvey(who.holding),
    "another parent": lambda ledger, who: add_parent(ledger, who.holding.node, account(ledger)),
    "books built anew": lambda ledger, who: rebuild(ledger),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_round_that_found_nobody_another_one_looks_when_something_changed(change: str) -> None:
    """P4: what may bring a new candidate is a reason."""
    ledger = ledger_of(1000)
    who = member(ledger, "protected", 1100, minimum=1100)
    run(round_about(ledger), [who])
    assert not may_start(ledger, ledger.root)

    CHANGES[change](ledger, who)

    assert may_start(ledger, ledger.root)


@pytest.mark.parametrize(("size", "looks"), [(20, False), (21, True)])
def test_after_a_round_that_found_nobody_a_newcomer_within_its_minimum_changes_nothing(size: int, looks: bool) -> None:
    """P4: it cannot be chosen, so that a round would look at everybody for nothing."""
    ledger = ledger_of(6400)
    who = member(ledger, "protected", 6401, minimum=6401)
    run(round_about(ledger), [who])

    member(ledger, "newcomer", size, minimum=20)

    assert may_start(ledger, ledger.root) is looks


def test_who_comes_during_a_round_is_a_candidate_of_the_next_one() -> None:
    """P4, F21: the round ends, and the next one looks at the newcomers."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, age=0.0)
    newcomers: list[Member] = []

    def bring_another(ask: Ask) -> str:
        newcomers.append(member(ledger, f"newcomer-{len(newcomers)}", 1050, age=0.0))
        newcomers[-1].answer = bring_another
        return "collapse"

    who.answer = bring_another
    ended = run(round_about(ledger), [who])

    assert ended.outcome is RoundOutcome.NOBODY_LEFT
    assert (ended.used, len(newcomers)) == (1050, 1)
    assert newcomers[0].surveys == 0
    assert may_start(ledger, ledger.root)
    ended = run(round_about(ledger), [who, *newcomers])
    assert (ended.victims, len(newcomers)) == (1, 2)


def test_the_last_candidate_before_the_round_still_counts() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, "old", 600, age=0.0), member(ledger, "last", 600, age=1.0)]
    one = round_about(ledger)
    late = member(ledger, "late", 600, age=0.5)

    ended = run(one, [*members, late])

    assert alive([*members, late]) == ["late"]
    assert ended.used == 600


def test_may_start_asks_for_a_limit_that_is_passed() -> None:
    ledger = ledger_of(1000)
    plain = member(ledger, "plain", 5)
    who = member(ledger, "who", 100, limit=100)
    node = who.holding.node

    assert not may_start(ledger, plain.holding.node)
    assert not may_start(ledger, node)
    assert not may_start(ledger, ledger.root)
    who.claim(1)
    assert may_start(ledger, node)
    close_account(ledger, node, WHY)
    node.used = 101
    assert not may_start(ledger, node)


def test_a_round_that_reached_its_target_forgets_that_one_gave_up() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, minimum=1100)
    run(round_about(ledger), [who])
    assert ledger.root_scope.gave_up is not None
    who.claim(1)
    run(round_about(ledger), [who])

    assert ledger.root_scope.gave_up is None


# --- what changes meanwhile -------------------------------------------------------------------------------------------


def test_a_victim_that_died_before_it_was_asked_is_passed_over() -> None:
    """F22: what it held is counted once, and the round goes on."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(4)]
    one = round_about(ledger)
    first = one.next(100.0)
    assert isinstance(first, Survey)
    one.surveyed(members[0].holding, 0.0, 100.0)
    second = one.next(100.0)  # m0 is chosen, m1 is surveyed
    assert isinstance(second, Survey)
    assert second.holdings[0] is members[1].holding
    ledger.end(members[0].holding, "its participant is gone")

    ended = run(one, members)

    assert alive(members) == ["m3"]
    assert (ended.used, ended.freed) == (400, 800)
    assert [node.name for node in ledger.accounts if node.asked] == []


@pytest.mark.parametrize("change", ["gives all", "becomes protected", "is not needed"])
def test_a_victim_is_looked_at_again_before_it_is_asked(change: str) -> None:
    """P10: between the choice and the ask others had their turn."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(3)]
    one = round_about(ledger)
    for who in members[:1]:
        assert isinstance(one.next(100.0), Survey)
        one.surveyed(who.holding, who.age, 100.0)
    assert isinstance(one.next(100.0), Survey)
    assert members[0].holding.node.asked
    if change == "gives all":
        members[0].release(500)
    elif change == "becomes protected":
        reconfigure(ledger, members[0].holding.node, None, 500, 0)
    else:
        members[1].release(450)
        members[2].release(450)

    ended = run(one, members)

    assert members[0].asks == []
    assert not members[0].holding.node.asked
    assert members[0].holding.live
    assert ended.victims == {"gives all": 1, "becomes protected": 2, "is not needed": 0}[change]
    assert ledger.root.used <= 750


def test_a_chosen_victim_that_still_holds_something_is_asked() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(3)]
    one = round_about(ledger)
    assert isinstance(one.next(100.0), Survey)
    one.surveyed(members[0].holding, 0.0, 100.0)
    assert isinstance(one.next(100.0), Survey)
    members[0].release(499)

    ask = next_ask(one, members)

    assert ask.victim is members[0].holding.node
    assert (ask.used, ask.wanted) == (1, 1)


def test_a_round_about_an_account_that_closes_is_cancelled() -> None:
    """F28: what it held is released once."""
    ledger = ledger_of(10_000)
    limited = account(ledger, "limited", limit=1000)
    members = [member(ledger, f"m{n}", 600, age=float(n), parent=limited) for n in range(3)]
    one = round_about(ledger, limited)
    ask = next_ask(one, members)
    close_account(ledger, limited, WHY)

    assert isinstance(one.next(100.0), Wait)
    one.settle(ask, collapsing=True, failure=None, now=101.0)
    ended = one.next(102.0)

    assert ended == RoundEnded(1, "limited", RoundOutcome.CANCELLED, 1, 600, 0, 750, 102.0)
    assert ledger.root.used == 0


def test_a_round_whose_victim_is_the_account_that_it_is_about_is_done() -> None:
    """P4: nothing is left of it, which is at or below low water."""
    ledger = ledger_of(10_000)
    limited = member(ledger, "limited", 1200, limit=1000)

    ended = run(round_about(ledger, limited.holding.node), [limited])

    assert ended == RoundEnded(1, "limited", RoundOutcome.DONE, 1, 1200, 0, 750, 100.0)


def test_a_round_about_an_account_whose_limits_go_is_cancelled() -> None:
    """F32: it does not go on about a limit that is none."""
    ledger = ledger_of(10_000)
    limited = account(ledger, "limited", limit=1000)
    members = [member(ledger, f"m{n}", 600, age=float(n), parent=limited) for n in range(3)]
    one = round_about(ledger, limited)
    assert isinstance(one.next(100.0), Survey)
    one.surveyed(members[0].holding, 0.0, 100.0)
    assert isinstance(one.next(100.0), Survey)
    members[1].release(600)
    reconfigure(ledger, limited, None, 0, 0)

    ended = run(one, members)

    assert ended.outcome is RoundOutcome.CANCELLED
    assert alive(members) == ["m0", "m1", "m2"]
    assert [node.name for node in ledger.accounts if node.asked] == []


def test_a_round_goes_on_when_limits_went_and_came_back() -> None:
    """F32: by the new ones."""
    ledger = ledger_of(10_000)
    limited = account(ledger, "limited", limit=1000)
    members = [member(ledger, f"m{n}", 600, age=float(n), parent=limited) for n in range(3)]
    one = round_about(ledger, limited)
    assert isinstance(one.next(100.0), Survey)
    members[0].release(600)  # no candidate any more, in whatever index
    reconfigure(ledger, limited, None, 0, 0)
    reconfigure(ledger, limited, Limits(400), 0, 0)

    ended = run(one, members)

    assert (ended.outcome, ended.target, ended.used) == (RoundOutcome.DONE, 300, 0)
    assert alive(members) == ["m0"]


def test_cancelling_leaves_nobody_asked_and_hears_no_answers() -> None:
    """F18: an answer that comes later changes nothing."""
    ledger = ledger_of(2000)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(5)]
    members[2].age = 50.0  # younger than known
    one = round_about(ledger)
    ask = next_ask(one, members)
    assert isinstance(one.next(100.0), Survey)  # another one is wanted, and its follower not known
    assert [node.name for node in ledger.accounts if node.asked] == ["m0", "m1"]

    ended = one.cancel(103.0)

    assert ended == RoundEnded(1, "tracker", RoundOutcome.CANCELLED, 0, 0, 2500, 1500, 103.0)
    assert one.cancel(104.0) is ended
    assert one.next(105.0) is ended
    assert [node.name for node in ledger.accounts if node.asked] == []
    one.settle(ask, collapsing=True, failure=None, now=106.0)
    assert alive(members) == ["m0", "m1", "m2", "m3", "m4"]
    assert ledger.counts.victims == 0


def test_cancelling_a_round_that_is_over_says_how_it_ended() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1001)
    one = round_about(ledger)
    ended = run(one, [who])

    assert one.cancel(200.0) is ended
    assert ended.outcome is RoundOutcome.DONE


def test_a_round_that_is_called_off_hears_whom_it_asked_and_asks_nobody_else() -> None:
    """P10: nobody wants its bytes any more."""
    ledger = ledger_of(2000)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(5)]
    members[2].age = 50.0  # younger than known
    one = round_about(ledger)
    ask = next_ask(one, members)
    assert isinstance(one.next(100.0), Survey)  # another one is wanted, and its follower not known

    one.called_off = True

    assert isinstance(one.next(101.0), Wait)
    assert [node.name for node in ledger.accounts if node.asked] == ["m0"]
    one.settle(ask, collapsing=True, failure=None, now=102.0)
    assert one.next(103.0) == RoundEnded(1, "tracker", RoundOutcome.CANCELLED, 1, 500, 2000, 1500, 103.0)
    assert alive(members) == ["m1", "m2", "m3", "m4"]
    check_books(ledger)


# --- what is told -----------------------------------------------------------------------------------------------------


def test_every_decision_explains_itself() -> None:
    """P12: who, why, how much was wanted and freed, who is next."""
    ledger = ledger_of(1000)
    first = member(ledger, "first", 300, age=90.0, priority=2)
    second = member(ledger, "second", 800, age=95.5, priority=2)
    empty = Member(ledger, first.holding.node, "empty")
    events_of(ledger)
    one = round_about(ledger, why="its limit is passed")

    ended = run(one, [first, second, empty])

    why = "holds the oldest data: 10.000 s old"
    reason = CloseReason(CloseKind.RECLAIMED, "first", f"{why}; gave up everything it held", 100.0)
    next_why = "holds the oldest data: 4.500 s old"
    next_reason = CloseReason(CloseKind.RECLAIMED, "second", f"{next_why}; gave up everything it held", 100.0)
    assert events_of(ledger) == [
        RoundStarted(1, "tracker", "its limit is passed", 1100, 1000, 750, 100.0),
        VictimAsked(1, "first", why, 10.0, 300, (2, 90.0), 300, 1, "second", 4.5, 100.0),
        AccountClosing("first", reason, 300),
        VictimSettled(1, "first", VictimOutcome.COLLAPSED, 300, 300, "gave up everything it held", 100.0),
        VictimAsked(1, "second", next_why, 4.5, 800, (2, 95.5), 50, 1, None, None, 100.0),
        AccountClosing("second", next_reason, 800),
        VictimSettled(1, "second", VictimOutcome.COLLAPSED, 50, 800, "gave up everything it held", 100.0),
        ended,
    ]
    assert first.holding.node.ended == reason
    assert ledger.counts == Counts(rounds=1, victims=2, collapsed=2, bytes_reclaimed=1100)


def test_partial_answers_are_told() -> None:
    """P12: how much it gave back."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, age=90.0)
    who.answer = give(who)
    run(round_about(ledger), [who])

    assert events_of(ledger, VictimSettled) == [
        VictimSettled(1, "who", VictimOutcome.PARTIAL, 350, 350, "gave back 350 bytes", 100.0)
    ]
    assert ledger.counts == Counts(rounds=1, victims=1, partial=1, bytes_reclaimed=350)


def test_a_failure_closes_the_account_and_says_what_failed() -> None:
    """P5, F16: with all its descendants."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, age=90.0)
    child = member(ledger, "child", 10, age=99.0, parent=who.holding.node)
    who.answer = lambda ask: "participant who raised ValueError"

    ended = run(round_about(ledger), [who, child])

    assert who.holding.node.ended == CloseReason(
        CloseKind.FAILED, "who", "holds the oldest data: 10.000 s old; participant who raised ValueError", 100.0
    )
    assert child.holding.node.ended is not None
    assert child.holding.node.ended.kind is CloseKind.FAILED
    assert ended.freed == 1110
    settled = events_of(ledger, VictimSettled)
    assert settled == [
        VictimSettled(1, "who", VictimOutcome.FAILED, 360, 1110, "participant who raised ValueError", 100.0)
    ]
    assert ledger.counts == Counts(rounds=1, victims=1, failed=1, bytes_reclaimed=1110)


def test_a_failure_weighs_more_than_a_collapse() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    one = round_about(ledger)
    one.settle(next_ask(one, [who]), collapsing=True, failure="raised ValueError", now=100.0)

    assert who.holding.node.ended is not None
    assert who.holding.node.ended.kind is CloseKind.FAILED


def test_a_victim_of_unknown_age_has_none() -> None:
    """P12: very old, in words and without a number."""
    ledger = ledger_of(1000)
    first, second = member(ledger, "first", 600, age=-inf), member(ledger, "second", 600, age=-inf)
    run(round_about(ledger), [first, second])

    asked = events_of(ledger, VictimAsked)[0]
    assert (asked.age, asked.next_age, asked.score) == (None, None, (0, -inf))
    assert asked.why == "holds the oldest data: of unknown age, which counts as very old"


def test_a_round_about_a_hard_limit_alone_has_no_limit() -> None:
    ledger = ledger_of(1000)
    node = account(ledger, "capped", hard_limit=100)
    ledger.claim_own(node, 90, 0.0)
    run(round_about(ledger, node))

    assert events_of(ledger, RoundStarted)[0].limit is None
    assert ledger.root.used == 0


def test_rounds_are_numbered() -> None:
    ledger = ledger_of(1000)
    assert [round_about(ledger).number for _ in range(3)] == [1, 2, 3]
    assert ledger.counts.rounds == 3


def test_asks_are_different_though_they_ask_the_same() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    who.answer = give(who, 100)
    run(round_about(ledger), [who])

    first, second = who.asks[:2]
    assert first != second
    assert "holdings" not in repr(first)


def test_a_round_that_waits_for_nothing_but_its_ask_waits() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    one = round_about(ledger)
    next_ask(one, [who])

    assert survey(one, [who]) == Wait()


# --- what is told where nobody listens --------------------------------------------------------------------------------


def test_nothing_is_told_of_victims_where_nobody_listens() -> None:
    """Only that the round began and ended: the books say the rest all the same."""
    ledger = ledger_of(1000)
    first, second = member(ledger, "first", 300, age=90.0), member(ledger, "second", 800, age=95.0)
    second.answer = give(second)
    one = round_about(ledger)
    one.heard = False

    ended = run(one, [first, second])

    assert [type(event) for event in events_of(ledger)] == [RoundStarted, RoundEnded]
    assert (ended.victims, ended.freed) == (2, 350)
    assert ledger.counts == Counts(rounds=1, victims=2, collapsed=1, partial=1, bytes_reclaimed=350)
    assert list(ledger.ended) == [first.holding.node]
    assert first.holding.node.ended is not None


def test_somebody_listens_unless_it_is_said_that_nobody_does() -> None:
    assert round_about(ledger_of()).heard


def test_a_failure_is_told_where_nobody_listens() -> None:
    """P5: it is worth a warning."""
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100, age=90.0)
    who.answer = lambda ask: "participant who raised ValueError"
    one = round_about(ledger)
    one.heard = False

    ended = run(one, [who])

    assert events_of(ledger)[1:] == [
        VictimSettled(1, "who", VictimOutcome.FAILED, 350, 1100, "participant who raised ValueError", 100.0),
        ended,
    ]


def test_a_victim_that_has_closed_leaves_nothing_among_the_candidates() -> None:
    """Not even what is swept at the next look into the books."""
    ledger = ledger_of(1000)
    who, other = member(ledger, "who", 600, age=90.0), member(ledger, "other", 500, age=95.0)
    one = round_about(ledger)
    one.settle(next_ask(one, [who, other]), collapsing=True, failure=None, now=100.0)

    assert [entry[3] for entry in ledger.root_scope.index] == [other.holding]
    assert not ledger.debris
