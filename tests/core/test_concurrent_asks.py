"""Several victims asked at once, as a task does it: what is promised counts before anybody else is asked."""

from __future__ import annotations

from memquota._core.accounts import close_account
from memquota._core.events import CloseKind, CloseReason, RoundEnded, RoundOutcome, VictimOutcome, VictimSettled
from memquota._core.reclamation import Round
from memquota._core.steps import Ask, Offer, Survey, Wait
from tests.core.support import (
    Member,
    account,
    answer_survey,
    events_of,
    ledger_of,
    member,
    next_ask,
    round_about,
    survey,
)


def asks_of(one: Round, members: list[Member]) -> list[Ask]:
    """All that it asks before it waits."""
    found = []
    while isinstance(step := survey(one, members), Ask):
        found.append(step)
    assert step == Wait()
    return found


def settle(one: Round, ask: Ask, *, collapsing: bool = True, now: float = 100.0) -> None:
    one.settle(ask, collapsing=collapsing, failure=None, now=now)


def test_victims_are_asked_at_once_until_enough_is_promised() -> None:
    """P10: 1300 of 1000, three times 200 promised; a fourth would be one too many."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 200, age=float(n)) for n in range(6)]
    members.append(member(ledger, "m6", 100, age=6.0))
    one = round_about(ledger)

    asks = asks_of(one, members)

    assert [(ask.victim.name, ask.wanted) for ask in asks] == [("m0", 200), ("m1", 200), ("m2", 150)]
    for ask in reversed(asks):
        settle(one, ask)
    ended = survey(one, members)
    assert isinstance(ended, RoundEnded)
    assert (ended.outcome, ended.victims, ended.freed) == (RoundOutcome.DONE, 3, 600)


def test_a_promise_that_was_not_kept_is_asked_of_the_next() -> None:
    """P10: credit ends with the answer."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(3)]
    one = round_about(ledger)
    first, second = asks_of(one, members)
    assert (first.victim.name, second.victim.name, second.wanted) == ("m0", "m1", 50)
    members[0].age = 9.0
    members[0].release(100)

    settle(one, first, collapsing=False)

    assert [(ask.victim.name, ask.wanted) for ask in asks_of(one, members)] == [("m2", 300)]


def test_no_more_is_promised_than_the_victim_still_holds() -> None:
    """P10: what it gave back meanwhile has left the books already."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    one = round_about(ledger)
    (first,) = asks_of(one, members)
    assert first.wanted == 450
    assert one.missing == 0

    members[0].release(300)  # 900 are left; of the 300 that it still holds all are promised
    assert one.missing == 900 - 750 - 300
    members[0].release(200)
    assert one.missing == 700 - 750 - 100
    assert survey(one, members) == Wait()


def test_a_victim_that_closed_promises_nothing() -> None:
    """P10: whoever has to make up for it is asked."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 400, age=float(n)) for n in range(5)]
    one = round_about(ledger)
    asks = asks_of(one, members)
    assert [ask.wanted for ask in asks] == [400, 400, 400, 50]
    close_account(ledger, asks[0].victim, CloseReason(CloseKind.CLOSED, "m0", "by hand", 100.0))
    members[4].claim(400)

    assert one.missing == 2000 - 750 - 400 - 400 - 50
    assert [(ask.victim.name, ask.wanted) for ask in asks_of(one, members)] == [("m4", 400)]


def test_who_is_being_asked_is_not_asked_again() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    one = round_about(ledger)
    asks_of(one, [who])
    who.claim(5000)

    assert survey(one, [who]) == Wait()


def test_an_account_above_one_that_is_being_asked_is_asked_for_the_rest() -> None:
    ledger = ledger_of(1000)
    top = member(ledger, "top", 600, age=5.0)
    child = member(ledger, "child", 500, age=1.0, parent=top.holding.node)
    deeper = member(ledger, "deeper", 100, age=9.0, parent=child.holding.node)
    members = [top, child, deeper]
    one = round_about(ledger)
    first = next_ask(one, members)
    top.claim(900)

    second = next_ask(one, members)

    assert first.members == [child.holding.node, deeper.holding.node]
    assert second.members == [top.holding.node]
    assert second.holdings == [top.holding]


def test_what_goes_with_an_account_above_is_counted_once() -> None:
    """P12: freed is what left the books, whoever was asked."""
    ledger = ledger_of(1000)
    top = member(ledger, "top", 1000, age=5.0)
    child = member(ledger, "child", 500, age=1.0, parent=top.holding.node)
    one = round_about(ledger)
    first, second = asks_of(one, [top, child])
    assert (first.victim.name, second.victim.name) == ("child", "top")

    settle(one, second)
    settle(one, first)
    ended = survey(one, [])

    assert isinstance(ended, RoundEnded)
    assert (ended.victims, ended.freed, ended.used) == (2, 1500, 0)
    assert ledger.counts.bytes_reclaimed == 1500
    outcomes = [(event.account, event.outcome, event.freed) for event in events_of(ledger, VictimSettled)]
    assert outcomes == [("top", VictimOutcome.COLLAPSED, 1500), ("child", VictimOutcome.GONE, 0)]
    assert (ledger.counts.collapsed, ledger.counts.partial, ledger.counts.failed, ledger.counts.stalled) == (1, 0, 0, 0)


def test_a_victim_that_closed_by_itself_freed_what_it_held_when_it_was_asked() -> None:
    """P12: it is gone, and so are its bytes."""
    ledger = ledger_of(1000)
    members = [member(ledger, "m0", 600, age=0.0), member(ledger, "m1", 700, age=1.0)]
    one = round_about(ledger)
    (ask,) = asks_of(one, members)
    members[0].release(200)
    close_account(ledger, ask.victim, CloseReason(CloseKind.DROPPED, "m0", "nobody held it any more", 100.0))

    settle(one, ask, collapsing=False)

    settled = events_of(ledger, VictimSettled)
    assert settled == [VictimSettled(1, "m0", VictimOutcome.GONE, 550, 600, "", 100.0)]
    assert ledger.counts.partial == 0


def test_an_answer_is_taken_once() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    one = round_about(ledger)
    (ask,) = asks_of(one, members)
    settle(one, ask, collapsing=False)
    settle(one, ask)

    assert members[0].holding.live
    assert ledger.counts.victims == 1


def test_members_may_be_asked_again_when_their_answer_is_in_the_books() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 600, age=float(n)) for n in range(2)]
    one = round_about(ledger)
    (ask,) = asks_of(one, members)
    assert ask.victim.asked
    members[0].release(10)
    settle(one, ask, collapsing=False)
    assert not ask.victim.asked

    (again,) = asks_of(one, members)
    assert again.victim is ask.victim
    assert again.returned == 10


def test_a_victim_that_was_chosen_and_not_needed_is_the_next_when_it_is_needed_after_all() -> None:
    """P4: nobody is lost between two looks."""
    ledger = ledger_of(1500)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(4)]
    members[2].age = 50.0  # younger than known
    one = round_about(ledger)
    first = next_ask(one, members)
    step = one.next(100.0)
    assert isinstance(step, Survey)  # m1 is chosen, and who follows is to be found out
    assert step.holdings == (members[3].holding,)
    assert members[1].holding.node.asked
    members[2].release(400)  # not needed after all

    assert one.next(100.0) == Wait()
    assert not members[1].holding.node.asked
    members[0].age = 50.0
    settle(one, first, collapsing=False)  # gave nothing

    assert next_ask(one, members).victim.name == "m1"


def test_with_a_policy_too() -> None:
    """P4: it is not dropped from those who were handed over."""
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{n}", 500, age=float(n)) for n in range(3)]
    one = round_about(ledger, policy="largest")
    survey_step = one.next(100.0)
    assert isinstance(survey_step, Survey)
    answer_survey(one, survey_step, members, 100.0)
    assert isinstance(one.next(100.0), Offer)
    one.offered([(members[0].holding, 3), (members[1].holding, 2)])
    first = one.next(100.0)
    assert isinstance(first, Ask)
    assert isinstance(one.next(100.0), Offer)  # m1 is chosen, and who follows is to be found out
    assert members[1].holding.node.asked
    members[2].release(250)  # not needed after all

    assert one.next(100.0) == Wait()
    assert not members[1].holding.node.asked
    members[0].release(10)
    settle(one, first, collapsing=False)  # gave little
    assert isinstance(one.next(100.0), Offer)
    one.offered([(members[2].holding, 1)])

    second = one.next(100.0)
    assert isinstance(second, Ask)
    assert second.victim.name == "m1"


def test_siblings_below_one_parent_are_asked_at_once() -> None:
    ledger = ledger_of(1000)
    parent = account(ledger, "parent")
    members = [member(ledger, f"m{n}", 600, age=float(n), parent=parent) for n in range(3)]
    one = round_about(ledger)

    asks = asks_of(one, members)

    assert [ask.victim.name for ask in asks] == ["m0", "m1"]
    settle(one, asks[1])
    assert parent.used == 1200
