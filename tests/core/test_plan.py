"""Who would go: the plan of a dry run."""

from memquota._core.events import Event
from memquota._core.holdings import Holding
from memquota._core.plan import PlannedVictim, ReclaimPlan, plan
from memquota._core.victims import Candidate
from tests.core.support import Member, ledger_of, member

Row = tuple[Holding, Candidate, object]


def rows(*members: Member) -> list[Row]:
    found: list[Row] = []
    for who in members:
        age = 100.0 - who.age
        name = who.holding.node.name
        found.append((who.holding, Candidate(name, who.age, age, who.holding.booked, 0.0, 0), age))
    return found


def test_victims_are_taken_in_order_until_it_is_enough() -> None:
    """P10: and nobody beyond need."""
    ledger = ledger_of(1000)
    first, second, third = (member(ledger, f"m{n}", 400, age=90.0 + n) for n in range(3))

    planned = plan(ledger, 750, rows(first, second, third), "oldest_data")

    why = "first by oldest_data: 10.0; its oldest data is 10.000 s old"
    next_why = "first by oldest_data: 9.0; its oldest data is 9.000 s old"
    assert planned == ReclaimPlan(
        used=1200,
        target=750,
        victims=(PlannedVictim("m0", 400, 10.0, 10.0, why), PlannedVictim("m1", 400, 9.0, 9.0, next_why)),
        left=400,
    )


def test_at_the_target_nobody_more_is_taken() -> None:
    ledger = ledger_of(1000)
    first, second = member(ledger, "first", 250), member(ledger, "second", 750)

    assert plan(ledger, 1000, rows(first, second), "x").victims == ()
    assert [one.account for one in plan(ledger, 750, rows(first, second), "x").victims] == ["first"]
    assert [one.account for one in plan(ledger, 749, rows(first, second), "x").victims] == ["first", "second"]


def test_planning_changes_nothing() -> None:
    ledger = ledger_of(1000)
    who = member(ledger, "who", 1100)
    events: list[Event] = list(ledger.events)
    version = ledger.version
    planned = plan(ledger, 0, rows(who), "x")

    assert (planned.used, planned.left) == (1100, 0)
    assert who.holding.live
    assert (ledger.root.used, ledger.version, list(ledger.events)) == (1100, version, events)
    assert not who.holding.node.asked


def test_what_went_with_a_victim_is_not_counted_again() -> None:
    """P1: a child counts once, whoever is first."""
    ledger = ledger_of(1000)
    top = member(ledger, "top", 500)
    child = member(ledger, "child", 300, parent=top.holding.node)
    deeper = member(ledger, "deeper", 100, parent=child.holding.node)
    other = member(ledger, "other", 200)

    planned = plan(ledger, 0, rows(child, deeper, top, child, other), "x")
    assert [(one.account, one.bytes) for one in planned.victims] == [("child", 400), ("top", 500), ("other", 200)]
    assert planned.left == 0

    planned = plan(ledger, 0, rows(top, child, deeper, other), "x")
    assert [(one.account, one.bytes) for one in planned.victims] == [("top", 900), ("other", 200)]


def test_the_protected_and_the_dead_are_passed_over() -> None:
    ledger = ledger_of(1000)
    at, above = member(ledger, "at", 300, minimum=300), member(ledger, "above", 301, minimum=300)
    gone = member(ledger, "gone", 5)
    ordered = rows(at, gone, above)
    ledger.end(gone.holding, "closed")

    planned = plan(ledger, 0, ordered, "x")
    assert [one.account for one in planned.victims] == ["above"]
    assert planned.left == 300


def test_an_account_is_protected_by_what_would_be_left_of_it() -> None:
    """A child that goes first may leave its parent at its minimum, as in a round."""
    ledger = ledger_of(1000)
    top = member(ledger, "top", 300, minimum=300)
    child = member(ledger, "child", 500, parent=top.holding.node)

    planned = plan(ledger, 0, rows(child, top), "x")
    assert [(one.account, one.bytes) for one in planned.victims] == [("child", 500)]
    assert planned.left == 300


def test_two_participants_of_one_account_go_together() -> None:
    ledger = ledger_of(1000)
    first = member(ledger, "pair", 300)
    beside = Member(ledger, first.holding.node, "beside")
    beside.claim(200)
    beside.age = 0.0

    planned = plan(ledger, 0, rows(first, beside), "x")
    assert [(one.account, one.bytes) for one in planned.victims] == [("pair", 500)]


def test_an_account_is_not_taken_for_a_participant_that_is_gone() -> None:
    """Its own turn comes with the age of who is still there."""
    ledger = ledger_of(1000)
    gone = member(ledger, "pair", 300, age=1.0)
    beside = Member(ledger, gone.holding.node, "beside")
    beside.claim(200)
    beside.age = 50.0
    other = member(ledger, "other", 400, age=20.0)
    ordered = rows(gone, other, beside)
    ledger.end(gone.holding, "its participant is gone")

    planned = plan(ledger, 0, ordered, "x")
    assert [(one.account, one.bytes, one.age) for one in planned.victims] == [("other", 400, 80.0), ("pair", 200, 50.0)]
